"""The source `sample-scenes`: built-in scenes, rendered on first use and cached, with annotations in COCO's format."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from sslkit.api import Objects, Progress, Source
from sslkit.boxes import Boxes, from_xywh
from sslkit.errors import DataError
from sslkit.folders import cache_dir, cores
from sslkit_images.folder import read_file
from sslkit_images.scenes.files import SceneOptions, SceneRecord, coco_annotations, file_name, write_scenes

_VERSION = 2
"""Part of the name of the cache folder. Increase it when scenes are rendered differently."""
_CHUNK = 25


class SampleScenes(Source):
    """Scenes rendered by code: objects of 16 categories in 7 kinds of scene.

    The scenes are JPEG files with an `instances.json` in COCO's format (boxes, run-length masks of the visible parts,
    labels). Scene i depends on seed, split and i alone, so a larger set begins with the smaller one. Another version of
    OpenCV or NumPy may render edges differently; the cache keeps scenes of different versions apart.

    Args:
        images: Number of scenes.
        split: "train" or "val"; they share no scene.
        seed: Seed of all scenes.
        side: Longer side of a scene, pixels.
        co_occurrence: Probability of drawing an object from the categories typical of the kind of scene, rather than
            from all.
        objects: Minimum and maximum number of objects in a scene.
    """

    name = "sample-scenes"

    def __init__(
        self, *, images: Annotated[int, Field(ge=1)] = 1000, split: Literal["train", "val"] = "train",
        seed: Annotated[int, Field(ge=0)] = 0, side: Annotated[int, Field(ge=64, le=1024)] = 224,
        co_occurrence: Annotated[float, Field(ge=0, le=1)] = 0.8, objects: tuple[int, int] = (4, 8),
    ) -> None:  # fmt: skip
        if not 1 <= objects[0] <= objects[1]:
            raise ValueError(f"objects = {list(objects)} must be [min, max] with 1 <= min <= max")
        self.images = images
        self.split = split
        self.seed = seed
        self.side = side
        self.co_occurrence = co_occurrence
        self.objects_range = (objects[0], objects[1])
        self.categories: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """The cache folder of the scenes."""
        options = (self.images, self.split, self.seed, self.side, self.co_occurrence, *self.objects_range)
        versions = (_VERSION, cv2.__version__, np.__version__)
        name = hashlib.blake2b(repr((*versions, *options)).encode(), digest_size=8).hexdigest()
        return cache_dir() / "sample-scenes" / f"{self.split}-{self.images}-{name}"

    @property
    def scene_options(self) -> SceneOptions:
        """The options that decide how scenes look."""
        return SceneOptions((self.seed, int(self.split == "val")), self.side, self.co_occurrence, self.objects_range)

    def prepare(self, progress: Progress) -> None:
        """Render the scenes, unless they exist. The folder appears only when it is complete."""
        if self.folder.exists():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder.parent))
        try:
            self._render(temporary, progress)
            temporary.chmod(0o755)
            temporary.rename(self.folder)
        except OSError:
            if not self.folder.exists():  # otherwise another process rendered the same scenes first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _render(self, folder: Path, progress: Progress) -> None:
        options = self.scene_options
        chunks = [range(start, min(start + _CHUNK, self.images)) for start in range(0, self.images, _CHUNK)]
        records: list[SceneRecord] = []
        with ProcessPoolExecutor(min(len(chunks), cores()), multiprocessing.get_context("forkserver")) as pool:
            progress("rendering scenes", 0, self.images)
            for chunk in pool.map(partial(write_scenes, folder, options), chunks):
                records += chunk
                progress("rendering scenes", len(records), self.images)
        (folder / "instances.json").write_text(json.dumps(coco_annotations(records)), encoding="utf-8")

    def open(self) -> None:
        """Read the annotations.

        Raises:
            DataError: The scenes have not been rendered.
        """
        file = self.folder / "instances.json"
        if not file.exists():
            raise DataError(f"the scenes in {self.folder} have not been rendered: call prepare() first")
        content = json.loads(file.read_bytes())
        self.categories = tuple(item["name"] for item in content["categories"])
        self._boxes: Boxes = from_xywh([item["bbox"] for item in content["annotations"]])
        self._labels = np.array([item["category_id"] - 1 for item in content["annotations"]], np.int64)
        counts = np.bincount([item["image_id"] for item in content["annotations"]], minlength=self.images)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self.kinds = tuple(content["info"]["kinds"])
        self._kinds = np.array([self.kinds.index(item["kind"]) for item in content["images"]], np.int64)

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.images

    def key(self, index: int) -> str:
        """Return the file name of a scene."""
        return file_name(index)

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.folder / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return boxes and labels of the visible objects."""
        part = slice(self._offsets[index], self._offsets[index + 1])
        return Objects(self._boxes[part], self._labels[part])

    def label(self, index: int) -> int | None:
        """Return the kind of a scene, as an index into `kinds`."""
        return int(self._kinds[index])
