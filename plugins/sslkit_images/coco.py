"""COCO's photos, with boxes and labels where the annotations have them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sslkit.api import Objects, Source
from sslkit.boxes import from_xywh
from sslkit.errors import DataError
from sslkit.folders import cache_dir
from sslkit_images.folder import read_file
from sslkit_images.listing import Names

_URL = "http://images.cocodataset.org"
_ANNOTATIONS = {
    "train2017": "annotations_trainval2017",
    "val2017": "annotations_trainval2017",
    "unlabeled2017": "image_info_unlabeled2017",
}


class Coco(Source):
    """COCO 2017, its unlabelled photos, or both (COCO+).

    Photos come in the order of the annotation file, which is the order of ORL's published proposals. The list of
    photos is that of image_info_SPLIT.json where there is one, else that of instances_SPLIT.json, else the folder's.

    Args:
        root: Holds SPLIT/ and annotations/.
        split: "train2017+unlabeled2017" is COCO+.
    """

    name = "coco"

    def __init__(
        self, *, root: Path = Path("data/coco"),
        split: Literal["train2017", "val2017", "unlabeled2017", "train2017+unlabeled2017"] = "train2017",
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.split = split
        self.categories: Sequence[str] = ()

    @property
    def splits(self) -> list[str]:
        """The folders that are read, in order."""
        return self.split.split("+")

    def missing(self) -> str | None:
        """Return the commands that get the folders that are not there."""
        lacking = [split for split in self.splits if not (self.root / split).is_dir()]
        if not lacking:
            return None
        lines = [line for split in lacking for line in self._commands(split)]
        folders = " and ".join(str((self.root / split).absolute()) for split in lacking)
        commands = "\n        ".join(lines)
        return f"COCO is not where it is looked for: there is no {folders}; get it with\n        {commands}"

    def _commands(self, split: str) -> list[str]:
        lines = []
        for archive, kind in ((split, "zips"), (_ANNOTATIONS[split], "annotations")):
            lines.append(f"curl --create-dirs -o {self.root}/{archive}.zip {_URL}/{kind}/{archive}.zip")
            lines.append(f"unzip -q {self.root}/{archive}.zip -d {self.root}")
        return lines

    def open(self) -> None:
        """Index photos and boxes; what is read from large annotation files is kept in the cache.

        Raises:
            DataError: Folders, or photos that the annotations list, are missing.
        """
        if missing := self.missing():
            raise DataError(missing)
        parts = [self._index(split) for split in self.splits]
        names = [f"{split}/{name}" for split, part in zip(self.splits, parts, strict=True) for name in part["names"]]
        self._names = Names(names)
        self._boxes = np.concatenate([part["boxes"] for part in parts])
        self._labels = np.concatenate([part["labels"] for part in parts])
        counts = np.concatenate([part["counts"] for part in parts])
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self.categories = tuple(next((part["categories"] for part in parts if len(part["categories"])), ()))
        self._check_files()

    def _check_files(self) -> None:
        """Compare the list with the folders, one listing each."""
        there = {f"{split}/{path.name}" for split in self.splits for path in (self.root / split).iterdir()}
        lacking = [name for name in (self._names[i] for i in range(len(self))) if name not in there]
        if not len(self):
            raise DataError(f"there are no photos in {', '.join(str(self.root / split) for split in self.splits)}")
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(self)} photos that {self.root}/annotations lists are not there: "
                f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}"
            )

    def _index(self, split: str) -> dict[str, Any]:
        folder = self.root / "annotations"
        listed = [file for kind in ("image_info", "instances") if (file := folder / f"{kind}_{split}.json").exists()]
        if not listed:
            names = sorted(path.name for path in (self.root / split).glob("*.jpg"))
            return _arrays(names, [()] * len(names), [])
        instances = folder / f"instances_{split}.json"
        return _cached(listed[0], instances if instances.exists() else listed[0])

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return split/file name."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return boxes and labels; crowds and boxes without area are left out."""
        part = slice(self._offsets[index], self._offsets[index + 1])
        return Objects(self._boxes[part], self._labels[part])


def _cached(images: Path, annotations: Path) -> dict[str, Any]:
    """Return the index of two annotation files, from the cache when they have not changed."""
    stats = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in (images, annotations)]
    name = hashlib.blake2b(repr(("coco", 1, stats)).encode(), digest_size=12).hexdigest()
    file = cache_dir() / "coco" / f"{name}.npz"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{id(stats)}.part.npz")
        np.savez(aside, **_read(images, annotations))
        aside.replace(file)
    with np.load(file, allow_pickle=False) as kept:
        return dict(kept)


def _read(images: Path, annotations: Path) -> dict[str, Any]:
    listed = _json(images)
    found = listed if annotations == images else _json(annotations)
    categories = sorted(found.get("categories", []), key=lambda item: item["id"])
    place = {item["id"]: number for number, item in enumerate(categories)}
    boxes: dict[int, list[tuple[list[float], int]]] = {}
    for item in found.get("annotations", []):
        if not item.get("iscrowd") and min(item["bbox"][2:]) > 0:
            boxes.setdefault(item["image_id"], []).append((item["bbox"], place[item["category_id"]]))
    rows = [boxes.get(image["id"], []) for image in listed["images"]]
    names = [image["file_name"] for image in listed["images"]]
    return _arrays(names, rows, [item["name"] for item in categories])


def _arrays(names: list[str], rows: Sequence[Sequence[Any]], categories: list[str]) -> dict[str, Any]:
    flat = [pair for row in rows for pair in row]
    return {
        "names": np.array(names, np.str_),
        "categories": np.array(categories, np.str_),
        "boxes": from_xywh([box for box, _ in flat]),
        "labels": np.array([label for _, label in flat], np.int64),
        "counts": np.array([len(row) for row in rows], np.int64),
    }


def _json(file: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as COCO annotations: {error}") from None
    if "images" not in read:
        raise DataError(f"{file} has no 'images': it is no COCO annotation file")
    return read
