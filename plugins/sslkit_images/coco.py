"""The source `coco`: COCO's images, with boxes and labels if the annotations have them."""

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
from sslkit_images.names import NameList, abbreviate

_URL = "http://images.cocodataset.org"
_ANNOTATIONS = {
    "train2017": "annotations_trainval2017",
    "val2017": "annotations_trainval2017",
    "unlabeled2017": "image_info_unlabeled2017",
}


class Coco(Source):
    """COCO 2017, its unlabelled images, or both (COCO+).

    Images keep the order of the annotation file, which is the order of ORL's published proposals. The list of images
    comes from image_info_SPLIT.json if it exists, else from instances_SPLIT.json, else from the folder.

    Args:
        root: The folder that holds SPLIT/ and annotations/.
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
        """The splits to read, in order."""
        return self.split.split("+")

    def missing(self) -> str | None:
        """Return an error message if a folder is missing, with the commands that download it."""
        missing = [split for split in self.splits if not (self.root / split).is_dir()]
        if not missing:
            return None
        lines = [line for split in missing for line in self._commands(split)]
        folders = " and ".join(str((self.root / split).absolute()) for split in missing)
        commands = "\n        ".join(lines)
        return f"COCO not found (looked for {folders}); download it with\n        {commands}"

    def _commands(self, split: str) -> list[str]:
        lines = []
        for archive, kind in ((split, "zips"), (_ANNOTATIONS[split], "annotations")):
            lines.append(f"curl --create-dirs -o {self.root}/{archive}.zip {_URL}/{kind}/{archive}.zip")
            lines.append(f"unzip -q {self.root}/{archive}.zip -d {self.root}")
        return lines

    def open(self) -> None:
        """Index images and boxes. The contents of large annotation files are cached.

        Raises:
            DataError: A folder or an image that the annotations list is missing.
        """
        if missing := self.missing():
            raise DataError(missing)
        parts = [self._index(split) for split in self.splits]
        names = [f"{split}/{name}" for split, part in zip(self.splits, parts, strict=True) for name in part["names"]]
        self._names = NameList(names)
        self._boxes = np.concatenate([part["boxes"] for part in parts])
        self._labels = np.concatenate([part["labels"] for part in parts])
        counts = np.concatenate([part["counts"] for part in parts])
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self.categories = tuple(next((part["categories"] for part in parts if len(part["categories"])), ()))
        self._check_files()

    def _check_files(self) -> None:
        """Check that the folders hold every listed image."""
        files = {f"{split}/{path.name}" for split in self.splits for path in (self.root / split).iterdir()}
        missing = [name for name in (self._names[i] for i in range(len(self))) if name not in files]
        if not len(self):
            raise DataError(f"no images found in {', '.join(str(self.root / split) for split in self.splits)}")
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self)} images listed in {self.root}/annotations are missing: "
                f"{abbreviate(missing)}"
            )

    def _index(self, split: str) -> dict[str, Any]:
        folder = self.root / "annotations"
        listed = [file for kind in ("image_info", "instances") if (file := folder / f"{kind}_{split}.json").exists()]
        if not listed:
            names = sorted(path.name for path in (self.root / split).glob("*.jpg"))
            return _to_arrays(names, [()] * len(names), [])
        instances = folder / f"instances_{split}.json"
        return _read_cached(listed[0], instances if instances.exists() else listed[0])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the key of an image: split/file name."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return the boxes and labels of an image, except crowds and boxes without area."""
        part = slice(self._offsets[index], self._offsets[index + 1])
        return Objects(self._boxes[part], self._labels[part])


def _read_cached(images: Path, annotations: Path) -> dict[str, Any]:
    """Return the index of two annotation files, from the cache if the files have not changed."""
    stats = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in (images, annotations)]
    name = hashlib.blake2b(repr(("coco", 1, stats)).encode(), digest_size=12).hexdigest()
    file = cache_dir() / "coco" / f"{name}.npz"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{id(stats)}.part.npz")
        np.savez(temporary, **_read_annotations(images, annotations))
        temporary.replace(file)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_annotations(images: Path, annotations: Path) -> dict[str, Any]:
    image_list = _read_json(images)
    content = image_list if annotations == images else _read_json(annotations)
    categories = sorted(content.get("categories", []), key=lambda item: item["id"])
    labels = {item["id"]: number for number, item in enumerate(categories)}
    boxes: dict[int, list[tuple[list[float], int]]] = {}
    for item in content.get("annotations", []):
        if not item.get("iscrowd") and min(item["bbox"][2:]) > 0:
            boxes.setdefault(item["image_id"], []).append((item["bbox"], labels[item["category_id"]]))
    rows = [boxes.get(image["id"], []) for image in image_list["images"]]
    names = [image["file_name"] for image in image_list["images"]]
    return _to_arrays(names, rows, [item["name"] for item in categories])


def _to_arrays(names: list[str], rows: Sequence[Sequence[Any]], categories: list[str]) -> dict[str, Any]:
    flat = [pair for row in rows for pair in row]
    return {
        "names": np.array(names, np.str_),
        "categories": np.array(categories, np.str_),
        "boxes": from_xywh([box for box, _ in flat]),
        "labels": np.array([label for _, label in flat], np.int64),
        "counts": np.array([len(row) for row in rows], np.int64),
    }


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as COCO annotations: {error}") from None
    if "images" not in content:
        raise DataError(f"{file} has no 'images': it is not a COCO annotation file")
    return content
