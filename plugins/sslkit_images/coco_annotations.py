"""Read COCO's annotation files: check every record, and join annotations with images and categories."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from sslkit.boxes import from_xywh
from sslkit.errors import DataError
from sslkit.files import EncodingError
from sslkit.json_records import JsonError, Record, read_records
from sslkit_images.coco_index import CocoIndex
from sslkit_images.names import NameList
from sslkit_images.problems import Problems, short

_LARGEST = 1e6
"""Coordinates beyond this are no pixels."""
_CROWD = {0: False, 1: True, "0": False, "1": True, None: False}


def read_index(images: Path, annotations: Path) -> CocoIndex:
    """Read and check the file that lists the images, and the one that lists their objects; they may be the same.

    Raises:
        DataError: A file cannot be read, or records are invalid; the message names the first of each kind.
    """
    collector = _Collector()
    if images != annotations:
        collector.read(images, {"images": collector.add_image})
    collector.read(
        annotations,
        {
            "images": collector.add_image if images == annotations else collector.add_other_image,
            "annotations": collector.add_annotation,
            "categories": collector.add_category,
        },
    )
    index = collector.index()
    files = " and ".join(map(str, dict.fromkeys((images, annotations))))
    collector.problems.raise_if_any(f"{files} cannot be used:")
    assert index is not None
    return index


_Add = Callable[[Record, Mapping[str, Any]], None]


@dataclass
class _Collector:
    """What has been read so far; the lists of a file may come in any order, so they are joined at the end."""

    problems: Problems = field(default_factory=Problems)
    names: dict[str, None] = field(default_factory=dict)
    image_places: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("i"))
    images: dict[Any, int] = field(default_factory=dict)
    other_images: set[Any] = field(default_factory=set)
    categories: dict[Any, str] = field(default_factory=dict)
    category_names: set[str] = field(default_factory=set)
    owners: list[Any] = field(default_factory=list)
    classes: list[Any] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    crowds: int = 0
    without_box: int = 0

    def read(self, file: Path, add: Mapping[str, _Add]) -> None:
        """Read a file, and add the records of each of its arrays."""
        try:
            for record in read_records(file, add, {"images"}):
                if isinstance(record.value, dict):
                    add[record.key](record, record.value)
                else:
                    self.problems.add("records are not objects", _shown(record))
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from None
        except (EncodingError, JsonError) as error:
            raise DataError(f"{file} cannot be read as COCO annotations: {error}") from None

    # ---------------------------------------------------------------------------------------------- images

    def add_other_image(self, _: Record, image: Mapping[str, Any]) -> None:
        """Add an image of the annotation file where another file lists the images."""
        if isinstance(image.get("id"), (int, str)):
            self.other_images.add(image["id"])

    def add_image(self, record: Record, image: Mapping[str, Any]) -> None:
        """Add an image of the file that lists them."""
        key, name = self._id(record, image, "id", "images have no valid id"), image.get("file_name")
        if not isinstance(name, str) or not _is_inside(name):
            self.problems.add("images have no valid file_name", _shown(record, "file_name"))
            return
        if key is None:
            return
        if key in self.images:
            other = f"images[{self.image_places[self.images[key]]}]"
            self.problems.add("images have an id that another one has", f"{_shown(record, 'id')} like {other}")
        elif name in self.names:
            self.problems.add("images have a file_name that another one has", _shown(record, "file_name"))
        else:
            self.images[key] = len(self.names)
            self.names[name] = None
            self.image_places.append(record.position)
            self.sizes.extend(self._size(record, image, side) for side in ("height", "width"))

    def _size(self, record: Record, image: Mapping[str, Any], side: str) -> int:
        value = image.get(side)
        if value is None:
            return 0
        if not _is_number(value) or not 0 <= value <= _LARGEST or value % 1:
            self.problems.add(f"images have no valid {side}", _shown(record, side))
            return 0
        return int(value)

    def add_category(self, record: Record, category: Mapping[str, Any]) -> None:
        """Add a category."""
        key, name = self._id(record, category, "id", "categories have no valid id"), category.get("name")
        if not isinstance(name, str) or not name.strip():
            self.problems.add("categories have no valid name", _shown(record, "name"))
        elif key in self.categories:
            self.problems.add("categories have an id that another one has", _shown(record, "id"))
        elif name in self.category_names:
            self.problems.add("categories have a name that another one has", _shown(record, "name"))
        elif key is not None:
            self.categories[key] = name
            self.category_names.add(name)

    # ---------------------------------------------------------------------------------------------- annotations

    def add_annotation(self, record: Record, annotation: Mapping[str, Any]) -> None:
        """Add an object, or count why it is left out."""
        crowd = _crowd(annotation.get("iscrowd"))
        if crowd is None:
            self.problems.add("annotations have an iscrowd that is neither 0 nor 1", _shown(record, "iscrowd"))
            return
        if crowd:
            self.crowds += 1
            return
        box = annotation.get("bbox", ...)
        if box is None or (isinstance(box, list) and not box):
            self.without_box += 1
            return
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            self.problems.add("annotations have no bbox of four numbers", _shown(record, "bbox"))
            return
        owner = self._id(record, annotation, "image_id", "annotations have no valid image_id")
        label = self._id(record, annotation, "category_id", "annotations have no valid category_id")
        if owner is None or label is None:
            return
        if not self._is_plausible(box):
            self.problems.add("annotations have a bbox that is no [left, top, width, height]", _shown(record, "bbox"))
            return
        if box[2] == 0 or box[3] == 0:
            self.without_box += 1
            return
        self.owners.append(owner)
        self.classes.append(label)
        self.places.append(record.position)
        self.boxes.extend(box)

    @staticmethod
    def _is_plausible(box: list[float]) -> bool:
        return all(-_LARGEST <= value <= _LARGEST for value in box) and box[2] >= 0 and box[3] >= 0

    def _id(self, record: Record, item: Mapping[str, Any], key: str, kind: str) -> Any:
        """Return the id under a key: an integer or a text; or None if there is no valid one."""
        value = item.get(key)
        if type(value) is int or (type(value) is str and value):
            return value
        if type(value) is float and value.is_integer():
            return int(value)
        self.problems.add(kind, _shown(record, key))
        return None

    # ---------------------------------------------------------------------------------------------- joins

    def index(self) -> CocoIndex | None:
        """Join annotations with images and categories; return None if there are problems."""
        ids = sorted(self.categories, key=lambda id_: (isinstance(id_, str), id_))
        numbers = {id_: number for number, id_ in enumerate(ids)}
        listed = np.array([not self._is_elsewhere(owner) for owner in self.owners], np.bool_)
        owners = self._join(self.owners, self.images, "image_id", "images")
        labels = self._join(self.classes, numbers, "category_id", "categories")
        if self.problems.counts:
            return None
        order = np.flatnonzero(listed)[np.argsort(owners[listed], kind="stable")]
        names = NameList(self.names)
        left_out = [self.crowds, self.without_box, len(listed) - len(order)]
        return CocoIndex(
            text=names.text, offsets=names.offsets, sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            counts=np.bincount(owners[order], minlength=len(names)).astype(np.int64),
            boxes=from_xywh(np.frombuffer(self.boxes, np.float64))[order], labels=labels[order],
            categories=np.array([self.categories[id_] for id_ in ids], np.str_),
            left_out=np.array(left_out, np.int64),
        )  # fmt: skip

    def _is_elsewhere(self, owner: Any) -> bool:
        """Return whether an image is in the annotation file only, where another file lists the images."""
        return owner in self.other_images and owner not in self.images

    def _join(self, ids: list[Any], rows: Mapping[Any, int], key: str, table: str) -> npt.NDArray[np.int64]:
        joined = np.fromiter((rows.get(id_, -1) for id_ in ids), np.int64, len(ids))
        if any(kind.startswith(f"{table} ") for kind in self.problems.counts):
            return joined  # what is not found may be missing because its record is invalid
        for place in np.flatnonzero(joined < 0).tolist():
            id_ = ids[place]
            if rows is self.images and self._is_elsewhere(id_):
                continue
            other: Any = str(id_) if isinstance(id_, int) else int(id_) if id_.isdecimal() else None
            hint = f", where {table} has {other!r}" if other in rows else ""
            record = f"annotations[{self.places[place]}] has {key} {id_!r}{hint}"
            self.problems.add(f"annotations have a {key} that is not in '{table}'", record)
        return joined


def _is_inside(name: str) -> bool:
    """Return whether a file name stays in the folder of its split."""
    path = PurePosixPath(name)
    return bool(name.strip()) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _crowd(value: object) -> bool | None:
    return _CROWD.get(value) if isinstance(value, (int, float, str, type(None))) else None


def _shown(record: Record, key: str | None = None) -> str:
    """Return where a record is, and what it holds under a key."""
    place = f"{record.key}[{record.position}]"
    if key is None:
        return f"{place} is {short(record.value)}"
    id_ = record.value.get("id")
    place += f" (id {id_!r})" if key != "id" and isinstance(id_, (int, str)) else ""
    return f"{place} has {key} {short(record.value[key])}" if key in record.value else f"{place} has no {key}"
