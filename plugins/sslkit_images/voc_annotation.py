"""Read and check one annotation file of Pascal VOC."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslkit.boxes import Boxes, empty
from sslkit.errors import closest
from sslkit.files import EncodingError
from sslkit_images.problems import Problems, cut, short
from sslkit_images.xml_text import parse_xml

CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(CATEGORIES)}
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_LARGEST = 1e6
"""Coordinates beyond this are no pixels."""
_FLAGS = {"": False, "0": False, "1": True}
_TAGS = frozenset({"annotation", "size", "height", "width", "object", "name", "difficult", "bndbox", *_SIDES})
_WITH_BOX = frozenset({"object", "part"})


class VocAnnotation(NamedTuple):
    """The n objects of one image.

    Attributes:
        size: Height and width of the image; 0 where the file says nothing.
        boxes: Shape (n, 4), xyxy pixels.
        labels: Indices into `CATEGORIES`.
        difficult: Whether each object is marked difficult.
    """

    size: tuple[int, int]
    boxes: Boxes
    labels: list[int]
    difficult: list[bool]


def read_annotation(file: Path, problems: Problems) -> VocAnnotation:
    """Read one annotation, and add what is wrong with it to the problems; objects with problems are left out."""
    root = _root(file, problems)
    if root is None:
        return VocAnnotation((0, 0), empty(), [], [])
    size = _Part(root, file.name, problems).child("size")
    parts = (
        _Part(item, f"{file.name}, object {number}", problems) for number, item in enumerate(root.iter("object"), 1)
    )
    found = [item for item in map(_object, parts) if item is not None]
    return VocAnnotation(
        (_side(size, "height"), _side(size, "width")),
        np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
        [label for label, _, _ in found],
        [flag for _, _, flag in found],
    )


def _root(file: Path, problems: Problems) -> ElementTree.Element | None:
    """Return the root of a file, or None if it is no annotation; elements that would be overlooked are problems."""
    try:
        root = parse_xml(file.read_bytes())
    except OSError as error:
        problems.add("files cannot be read", f"{file.name}: {error.strerror}")
        return None
    except (EncodingError, ElementTree.ParseError) as error:
        problems.add("files are not valid XML", f"{file.name}: {error}")
        return None
    if root.tag != "annotation":
        problems.add("files do not begin with <annotation>", f"{file.name}: <{cut(root.tag)}>")
        return None
    for element in root.iter():
        name = element.tag.rpartition("}")[2].lower()
        if name in _TAGS and element.tag != name:
            problems.add("elements are misspelt", f"{file.name}: <{cut(element.tag)}> instead of <{name}>")
        elif element.tag not in _WITH_BOX and element.find("bndbox") is not None:
            problems.add("boxes are in no <object>", f"{file.name}: <{cut(element.tag)}> has one")
    return root


class _Part(NamedTuple):
    """An element of a file.

    Attributes:
        element: The element; None if it is not there.
        where: Where it is, for messages.
        problems: Where elements that occur more than once are added.
    """

    element: ElementTree.Element | None
    where: str
    problems: Problems

    def child(self, name: str) -> _Part:
        """Return the one element of a name in this one."""
        found = [] if self.element is None else self.element.findall(name)
        if len(found) > 1:
            self.problems.add("elements occur more than once", f"{self.where}: <{name}>")
        return self._replace(element=found[0] if found else None)

    def text(self, name: str) -> str:
        """Return the text of the one element of a name in this one; "" if there is none."""
        element = self.child(name).element
        return "" if element is None else (element.text or "").strip()


def _side(size: _Part, side: str) -> int:
    """Return a side of the image; 0 if the file has none, or 0 as a placeholder."""
    text = size.text(side)
    value = _number(text) if text else 0.0
    if value is None or value < 0 or value % 1:
        size.problems.add(f"files have no valid {side}", f"{size.where} has {short(text)}")
        return 0
    return int(value)


def _object(part: _Part) -> tuple[int, list[float], bool] | None:
    """Return an object's label, box and difficult flag; None if one of them is not valid."""
    label, box, flag = _label(part), _box(part), _flag(part)
    return None if label is None or box is None or flag is None else (label, box, flag)


def _label(part: _Part) -> int | None:
    name = part.text("name")
    label = _NUMBERS.get(name)
    if label is None:
        part.problems.add("objects have no VOC category", f"{part.where}: {short(name)}{closest(name, CATEGORIES)}")
    return label


def _box(part: _Part) -> list[float] | None:
    """Return xyxy pixels counted from 0: the file counts from 1, and its last pixel is inside the box."""
    sides = part.child("bndbox")
    texts = [sides.text(side) for side in _SIDES]
    values = [value for value in map(_number, texts) if value is not None]
    shown = ", ".join(f"{side} {cut(text) or 'missing'}" for side, text in zip(_SIDES, texts, strict=True))
    if len(values) < len(_SIDES):
        part.problems.add("objects have no box of four numbers", f"{part.where}: {shown}")
        return None
    left, top, right, bottom = values
    if right < left or bottom < top:
        part.problems.add("objects have a box that ends before it begins", f"{part.where}: {shown}")
        return None
    return [left - 1, top - 1, right, bottom]


def _flag(part: _Part) -> bool | None:
    text = part.text("difficult")
    if text not in _FLAGS:
        part.problems.add("objects have a 'difficult' that is neither 0 nor 1", f"{part.where}: {short(text)}")
    return _FLAGS.get(text)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _LARGEST else None
