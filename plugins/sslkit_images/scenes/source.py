"""The source `sample-scenes`: built-in scenes, rendered on first use and cached, with annotations in COCO's format."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from sslkit.api import Objects, Progress, Source
from sslkit.boxes import Boxes, from_xywh
from sslkit.errors import DataError, SslkitWarning, StorageError
from sslkit.files import load_cache, name_aside, reason
from sslkit.folders import cache_dir, cores, processes, signals_blocked, temporary_cache
from sslkit_images.folder import read_file
from sslkit_images.scenes.files import SceneOptions, SceneRecord, coco_annotations, file_name, write_scenes

_VERSION = 2
"""Part of the name of the cache folder. Increase it when scenes are rendered differently."""
_CHUNK = 25
_ANNOTATIONS = "instances.json"

Amount = Annotated[int, Field(le=1000)]


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
    reads_in_threads = True

    def __init__(
        self, *, images: Annotated[int, Field(ge=1, le=10_000_000)] = 1000, split: Literal["train", "val"] = "train",
        seed: Annotated[int, Field(ge=0, lt=2**31)] = 0, side: Annotated[int, Field(ge=64, le=1024)] = 224,
        co_occurrence: Annotated[float, Field(ge=0, le=1)] = 0.8, objects: tuple[Amount, Amount] = (4, 8),
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
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of the scenes: in the cache, or among temporary files where the cache cannot be written."""
        return self._folder or self._place(cache_dir())

    def _place(self, base: Path) -> Path:
        """Return the folder of these scenes in a cache folder."""
        options = (self.images, self.split, self.seed, self.side, self.co_occurrence, *self.objects_range)
        versions = (_VERSION, cv2.__version__, np.__version__)
        name = hashlib.blake2b(repr((*versions, *options)).encode(), digest_size=8).hexdigest()
        return base / "sample-scenes" / f"{self.split}-{self.images}-{name}"

    @property
    def scene_options(self) -> SceneOptions:
        """The options that decide how scenes look."""
        return SceneOptions((self.seed, int(self.split == "val")), self.side, self.co_occurrence, self.objects_range)

    def prepare(self, progress: Progress) -> None:
        """Render the scenes, unless they exist. The folder appears only when it is complete.

        Raises:
            StorageError: They can be written neither to the cache nor among temporary files.
        """
        try:
            self._folder = self._made(self._place(cache_dir()), progress)
            return
        except OSError as error:
            why = f"{cache_dir()} cannot be written ({reason(error)})"
        try:
            self._folder = self._made(self._place(temporary_cache()), progress)
        except OSError as error:
            raise StorageError(
                f"the sample scenes cannot be rendered: {why}, and {temporary_cache()} neither ({reason(error)}); "
                "set SSLKIT_CACHE to a folder that can"
            ) from None
        warnings.warn(f"the sample scenes are in {temporary_cache()}, as {why}", SslkitWarning, stacklevel=1)

    def _made(self, folder: Path, progress: Progress) -> Path:
        """Return a folder with the scenes, after rendering them if it is missing or damaged.

        Raises:
            OSError: It cannot be written.
        """
        if self._is_complete(folder):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        damaged = name_aside(folder)
        try:
            self._render(temporary, progress)
            temporary.chmod(0o755)
            if folder.exists() and not self._is_complete(folder):
                folder.rename(damaged)
            temporary.rename(folder)
        except OSError:
            if not self._is_complete(folder):  # otherwise another process rendered the same scenes first
                raise
        finally:
            for left in (temporary, damaged):
                shutil.rmtree(left, ignore_errors=True)
        return folder

    def _is_complete(self, folder: Path) -> bool:
        """Return whether a folder holds all scenes; warn if only a part of them is left."""
        listed = load_cache(
            folder / _ANNOTATIONS, "a set of sample scenes", lambda file: len(json.load(file)["images"])
        )
        if listed is None:
            return False
        missing = {file_name(index) for index in range(self.images)} - {path.name for path in folder.iterdir()}
        if missing:
            warnings.warn(
                f"a set of sample scenes is made again: {folder} lacks {len(missing)} of {self.images} scenes",
                SslkitWarning, stacklevel=1,
            )  # fmt: skip
        return listed == self.images and not missing

    def _render(self, folder: Path, progress: Progress) -> None:
        options = self.scene_options
        chunks = [range(start, min(start + _CHUNK, self.images)) for start in range(0, self.images, _CHUNK)]
        records: list[SceneRecord] = []
        progress("rendering scenes", 0, self.images)
        for chunk in _in_processes(partial(write_scenes, folder, options), chunks):
            records += chunk
            progress("rendering scenes", len(records), self.images)
        (folder / _ANNOTATIONS).write_text(json.dumps(coco_annotations(records)), encoding="utf-8")

    def open(self) -> None:
        """Read the annotations.

        Raises:
            DataError: The scenes have not been rendered.
        """
        folders = (self.folder, self._place(temporary_cache())) if self._folder is None else (self._folder,)
        folder = next((item for item in folders if os.path.isfile(item / _ANNOTATIONS)), None)  # noqa: PTH113 - long names
        if folder is None:
            raise DataError(f"the scenes in {self.folder} have not been rendered: call prepare() first")
        self._folder = folder
        content = json.loads((folder / _ANNOTATIONS).read_bytes())
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


def _in_processes(work: Callable[[range], list[SceneRecord]], chunks: Sequence[range]) -> Iterator[list[SceneRecord]]:
    """Yield the results of some work in order; this process does it where there are no others."""
    jobs = processes(min(len(chunks), cores()))
    if not jobs:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("forkserver")) as pool:
        with signals_blocked():
            results = pool.map(work, chunks)
        yield from results
