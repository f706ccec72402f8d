"""Read and check one annotation file of Pascal VOC."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslkit.boxes import Boxes
from sslkit.errors import closest
from sslkit.files import EncodingError
from sslkit_images.problems import Problems
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


class VocAnnotation(NamedTuple):
    """The n objects of one image.

    Attributes:
        size: Height and width of the image; 0 where the file says nothing.
        boxes: Shape (n, 4), xyxy pixels.
        labels: Indices into `CATEGORIES`.
        difficult: Whether each object is marked difficult.
        without_area: Number of objects that are left out because their box has no area.
    """

    size: tuple[int, int]
    boxes: Boxes
    labels: list[int]
    difficult: list[bool]
    without_area: int = 0


def read_annotation(file: Path, problems: Problems) -> VocAnnotation:
    """Read one annotation, and add what is wrong with it to the problems; objects with problems are left out."""
    labels: list[int] = []
    boxes: list[list[float]] = []
    difficult: list[bool] = []
    without_area = 0
    try:
        root = parse_xml(file.read_bytes())
    except OSError as error:
        problems.add("files cannot be read", f"{file.name}: {error.strerror}")
        return VocAnnotation((0, 0), _array(boxes), labels, difficult)
    except (EncodingError, ElementTree.ParseError) as error:
        problems.add("files are not valid XML", f"{file.name}: {error}")
        return VocAnnotation((0, 0), _array(boxes), labels, difficult)
    height, width = (_side(root, side, file, problems) for side in ("height", "width"))
    for number, element in enumerate(root.iter("object"), 1):
        where = f"{file.name}, object {number}"
        label, box, flag = _label(element, where, problems), _box(element, where, problems), _flag(element)
        if flag is None:
            problems.add("objects have a 'difficult' that is neither 0 nor 1", where)
        elif box is not None and (box[0] == box[2] or box[1] == box[3]):
            without_area += 1
        elif label is not None and box is not None:
            labels.append(label)
            boxes.append(box)
            difficult.append(flag)
    return VocAnnotation((height, width), _array(boxes), labels, difficult, without_area)


def _array(boxes: list[list[float]]) -> Boxes:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _side(root: ElementTree.Element, side: str, file: Path, problems: Problems) -> int:
    """Return a side of the image; 0 if the file has none, or 0 as a placeholder."""
    text = _text(root, f"size/{side}")
    value = _number(text) if text else 0.0
    if value is None or value < 0 or value % 1:
        problems.add(f"files have no valid {side}", f"{file.name} has {text!r}")
        return 0
    return int(value)


def _label(element: ElementTree.Element, where: str, problems: Problems) -> int | None:
    name = _text(element, "name")
    label = _NUMBERS.get(name)
    if label is None:
        problems.add("objects have no VOC category", f"{where}: '{name}'{closest(name, CATEGORIES)}")
    return label


def _box(element: ElementTree.Element, where: str, problems: Problems) -> list[float] | None:
    """Return xyxy pixels counted from 0: the file counts from 1, and its last pixel is inside the box."""
    texts = [_text(element, f"bndbox/{side}") for side in _SIDES]
    values = [value for value in map(_number, texts) if value is not None]
    shown = ", ".join(f"{side} {text or 'missing'}" for side, text in zip(_SIDES, texts, strict=True))
    if len(values) < 4:
        problems.add("objects have no box of four numbers", f"{where}: {shown}")
        return None
    left, top, right, bottom = values[0] - 1, values[1] - 1, values[2], values[3]
    if right < left or bottom < top:
        problems.add("objects have a box that ends before it begins", f"{where}: {shown}")
        return None
    return [left, top, right, bottom]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _LARGEST else None


def _flag(element: ElementTree.Element) -> bool | None:
    return _FLAGS.get(_text(element, "difficult"))
