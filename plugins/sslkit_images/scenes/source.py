"""The built-in scenes as a source: rendered on first use, kept in the cache, in COCO form."""

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
from sslkit_images.scenes.writing import Look, Row, coco, file_name, write_scenes

_VERSION = 2
"""Raise it when a scene comes out differently: it names the folder in the cache."""
_CHUNK = 25


class SampleScenes(Source):
    """Scenes rendered by code, with objects of 16 categories in 7 kinds of places.

    They are JPEG files with an `instances.json` in COCO form (boxes, run-length masks of the visible parts, labels).
    Scene i depends on seed, split and i alone, so a larger set begins with the smaller one. Another version of OpenCV
    or NumPy may draw it with other pixels at its edges, and finds no scenes in the cache but its own.

    Args:
        images: How many.
        split: "train" and "val" share no scene.
        seed: Of all scenes.
        side: The longer side, pixels.
        co_occurrence: Probability that an object is one of those at home in its kind of scene; else it is any.
        objects: Least and most objects of a scene.
    """

    name = "sample-scenes"

    def __init__(
        self, *, images: Annotated[int, Field(ge=1)] = 1000, split: Literal["train", "val"] = "train",
        seed: Annotated[int, Field(ge=0)] = 0, side: Annotated[int, Field(ge=64, le=1024)] = 224,
        co_occurrence: Annotated[float, Field(ge=0, le=1)] = 0.8, objects: tuple[int, int] = (4, 8),
    ) -> None:  # fmt: skip
        if not 1 <= objects[0] <= objects[1]:
            raise ValueError(f"objects = {list(objects)} must be [least, most] with 1 <= least <= most")
        self.images = images
        self.split = split
        self.seed = seed
        self.side = side
        self.co_occurrence = co_occurrence
        self.objects_range = (objects[0], objects[1])
        self.categories: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Where the scenes are kept."""
        options = (self.images, self.split, self.seed, self.side, self.co_occurrence, *self.objects_range)
        painters = (_VERSION, cv2.__version__, np.__version__)
        name = hashlib.blake2b(repr((*painters, *options)).encode(), digest_size=8).hexdigest()
        return cache_dir() / "sample-scenes" / f"{self.split}-{self.images}-{name}"

    @property
    def look(self) -> Look:
        """What decides the scenes."""
        return Look((self.seed, int(self.split == "val")), self.side, self.co_occurrence, self.objects_range)

    def prepare(self, progress: Progress) -> None:
        """Render the scenes, unless they are there; the folder appears when it is complete."""
        if self.folder.exists():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder.parent))
        try:
            self._render(aside, progress)
            aside.chmod(0o755)
            aside.rename(self.folder)
        except OSError:
            if not self.folder.exists():  # else another process was faster, with the same scenes
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _render(self, folder: Path, progress: Progress) -> None:
        look = self.look
        chunks = [range(start, min(start + _CHUNK, self.images)) for start in range(0, self.images, _CHUNK)]
        rows: list[Row] = []
        with ProcessPoolExecutor(min(len(chunks), cores()), multiprocessing.get_context("forkserver")) as pool:
            progress("rendering scenes", 0, self.images)
            for done in pool.map(partial(write_scenes, folder, look), chunks):
                rows += done
                progress("rendering scenes", len(rows), self.images)
        (folder / "instances.json").write_text(json.dumps(coco(rows)), encoding="utf-8")

    def open(self) -> None:
        """Read the annotations.

        Raises:
            DataError: The scenes have not been rendered.
        """
        file = self.folder / "instances.json"
        if not file.exists():
            raise DataError(f"the scenes in {self.folder} have not been rendered: call prepare first")
        found = json.loads(file.read_bytes())
        self.categories = tuple(item["name"] for item in found["categories"])
        self._boxes: Boxes = from_xywh([item["bbox"] for item in found["annotations"]])
        self._labels = np.array([item["category_id"] - 1 for item in found["annotations"]], np.int64)
        counts = np.bincount([item["image_id"] for item in found["annotations"]], minlength=self.images)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self.kinds = tuple(found["info"]["kinds"])
        self._kinds = np.array([self.kinds.index(item["kind"]) for item in found["images"]], np.int64)

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.images

    def key(self, index: int) -> str:
        """Return the file's name."""
        return file_name(index)

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.folder / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return the boxes of the visible parts, and their labels."""
        part = slice(self._offsets[index], self._offsets[index + 1])
        return Objects(self._boxes[part], self._labels[part])

    def label(self, index: int) -> int | None:
        """Return the kind of scene, an index into `kinds`."""
        return int(self._kinds[index])
