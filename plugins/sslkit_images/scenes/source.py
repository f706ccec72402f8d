"""The built-in scenes as a source: rendered on first use, kept in the cache, in COCO form."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from sslkit.api import Objects, Progress, Source
from sslkit.boxes import Boxes, from_xywh
from sslkit.errors import DataError
from sslkit.folders import cache_dir
from sslkit_images.folder import read_file

_VERSION = 1
"""Raise it when a scene comes out differently: it names the folder in the cache."""
_CHUNK = 25


class SampleScenes(Source):
    """Scenes rendered by code, with objects of 16 categories in 7 kinds of places.

    They are JPEG files with an `instances.json` in COCO form (boxes, run-length masks of the visible parts, labels).
    Scene i depends on seed, split and i alone, so a larger set begins with the smaller one.

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
        self.objects_range = tuple(objects)
        self.categories: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Where the scenes are kept."""
        options = (_VERSION, self.images, self.split, self.seed, self.side, self.co_occurrence, *self.objects_range)
        name = hashlib.blake2b(repr(options).encode(), digest_size=8).hexdigest()
        return cache_dir() / "sample-scenes" / f"{self.split}-{self.images}-{name}"

    def prepare(self, progress: Progress) -> None:
        """Render the scenes, unless they are there; the folder appears when it is complete."""
        if self.folder.exists():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder.parent))
        try:
            self._render(aside, progress)
            aside.rename(self.folder)
        except OSError:
            if not self.folder.exists():  # else another process was faster, with the same scenes
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _render(self, folder: Path, progress: Progress) -> None:
        jobs = [(self, folder, range(start, min(start + _CHUNK, self.images))) for start in range(0, self.images, _CHUNK)]
        rows: list[list[Any]] = []
        with multiprocessing.get_context("forkserver").Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
            progress("rendering scenes", 0, self.images)
            for done in pool.imap(_render_chunk, jobs):
                rows += done
                progress("rendering scenes", len(rows), self.images)
        (folder / "instances.json").write_text(json.dumps(_coco(rows)), encoding="utf-8")

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
        return f"{index:06d}.jpg"

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


def _render_chunk(job: tuple[SampleScenes, Path, range]) -> list[Any]:
    """Render and write some scenes; return what the annotations need of each."""
    import cv2

    from sslkit_images.scenes.render import render

    cv2.setNumThreads(1)
    source, folder, numbers = job
    rows = []
    for number in numbers:
        seeds = np.random.SeedSequence([source.seed, int(source.split == "val"), number])
        least, most = source.objects_range
        scene = render(np.random.Generator(np.random.PCG64(seeds)), source.side, source.co_occurrence, (least, most))
        cv2.imwrite(str(folder / source.key(number)), scene.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        found = [(name, _box(mask), _runs(mask), int(mask.sum())) for name, mask in zip(scene.names, scene.masks, strict=True)]
        rows.append((number, source.key(number), scene.pixels.shape[:2], scene.kind, found))
    return rows


def _box(mask: Any) -> list[int]:
    """Return the tight box (left, top, width, height) of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _runs(mask: Any) -> list[int]:
    """Return COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [-1]])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges])).tolist() if edges[-1] == mask.size else [*np.diff(np.concatenate([[0], edges])).tolist(), 0]


def _coco(rows: list[Any]) -> dict[str, Any]:
    from sslkit_images.scenes.backgrounds import KINDS
    from sslkit_images.scenes.shapes import CATEGORIES

    ids = {name: number for number, name in enumerate(CATEGORIES, 1)}
    images = [
        {"id": number, "file_name": name, "height": height, "width": width, "kind": kind}
        for number, name, (height, width), kind, _ in rows
    ]
    annotations: list[dict[str, Any]] = []
    for number, _, (height, width), _, found in rows:
        for name, box, runs, area in found:
            mask = {"size": [height, width], "counts": runs}
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": ids[name], "bbox": box, "area": area,
                "segmentation": mask, "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"info": {"kinds": list(KINDS)}, "images": images, "categories": categories, "annotations": annotations}
