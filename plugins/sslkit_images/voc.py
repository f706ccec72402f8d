"""The source `voc`: Pascal VOC, with images in JPEGImages, boxes in Annotations and lists in ImageSets/Main."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sslkit.api import Objects, Source
from sslkit.boxes import Boxes, empty
from sslkit.errors import DataError, closest
from sslkit.text_files import EncodingError
from sslkit_images.folder import read_file, read_lines
from sslkit_images.names import NameList, abbreviate
from sslkit_images.xml_text import parse_xml

CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_URL = "http://host.robots.ox.ac.uk/pascal/VOC"
_ARCHIVES = {"VOC2007": "voc2007/VOCtrainval_06-Nov-2007.tar", "VOC2012": "voc2012/VOCtrainval_11-May-2012.tar"}
_TEST = {"VOC2007": "voc2007/VOCtest_06-Nov-2007.tar"}


class Voc(Source):
    """Pascal VOC (VOC2007, VOC2012 and data in their layout): images with boxes of 20 categories.

    Boxes are in pixels counted from 0, right and bottom exclusive. The annotation files count from 1 and include the
    last pixel, so (xmin, ymin, xmax, ymax) becomes (xmin - 1, ymin - 1, xmax, ymax).

    Args:
        root: The folder that holds JPEGImages, Annotations and ImageSets, such as VOCdevkit/VOC2007.
        split: Name of a list in ImageSets/Main: train, val, trainval, test, or your own.
        difficult: How to treat objects marked difficult. "mark" keeps the mark: they get no crops, and an image that
            shows a category only in difficult objects counts neither for nor against it, as in VOC's own evaluation.
            "keep" treats them like all others, "drop" removes them.
    """

    name = "voc"
    categories = CATEGORIES

    def __init__(
        self, *, root: Path = Path("data/VOCdevkit/VOC2007"), split: str = "trainval",
        difficult: Literal["mark", "keep", "drop"] = "mark",
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.split = split
        self.difficult = difficult

    @property
    def list(self) -> Path:
        """The file that lists the images of the split."""
        return self.root / "ImageSets" / "Main" / f"{self.split}.txt"

    def missing(self) -> str | None:
        """Return an error message if a folder or list is missing, with the download command for VOC2007 and VOC2012."""
        missing = [name for name in ("JPEGImages", "Annotations") if not (self.root / name).is_dir()]
        if missing:
            return f"VOC not found: {self.root.absolute()} has no {' and no '.join(missing)}{self._download_hint()}"
        if self.list.is_file():
            return None
        lists = sorted(path.stem for path in self.list.parent.glob("*.txt") if "_" not in path.stem)
        hint = closest(self.split, lists) or (f"; the lists are {', '.join(lists)}" if lists else "")
        return f"list not found: {self.list.absolute()}{hint}{self._download_hint()}"

    def _download_hint(self) -> str:
        archive = (_TEST if self.split == "test" else _ARCHIVES).get(self.root.name)
        if archive is None:
            return ""
        file = self.root.parent.parent / Path(archive).name
        return (
            f"; download it with\n        curl --create-dirs -o {file} {_URL}/{archive}"
            f"\n        tar -xf {file} -C {file.parent}"
        )

    def open(self) -> None:
        """List the images and read their boxes.

        Raises:
            DataError: Folders, lists, images or annotations are missing, or an annotation cannot be read.
        """
        if missing := self.missing():
            raise DataError(missing)
        names = [words[0] for line in read_lines(self.list) if (words := line.split())]
        if not names:
            raise DataError(f"{self.list} lists no images")
        files = {path.stem for path in (self.root / "JPEGImages").glob("*.jpg")}
        missing_images = [name for name in names if name not in files]
        if missing_images:
            raise DataError(
                f"{len(missing_images)} of {len(names)} images listed in {self.list} are not in "
                f"{self.root / 'JPEGImages'}: {abbreviate(missing_images)}"
            )
        self._names = NameList(names)
        arrays = _read_annotations(self.root / "Annotations", names)
        self._boxes, self._labels, self._difficult = arrays["boxes"], arrays["labels"], arrays["difficult"]
        self._offsets = np.concatenate([[0], np.cumsum(arrays["counts"])])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the key of an image: JPEGImages/file name."""
        return f"JPEGImages/{self._names[index]}.jpg"

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return boxes, labels and difficult flags of an image, subject to the option `difficult`."""
        part = slice(self._offsets[index], self._offsets[index + 1])
        boxes, labels, difficult = self._boxes[part], self._labels[part], self._difficult[part]
        if self.difficult == "drop":
            return Objects(boxes[~difficult], labels[~difficult])
        return Objects(boxes, labels, difficult if self.difficult == "mark" else None)


def _read_annotations(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    rows = [read_annotation(folder / f"{name}.xml") for name in names]
    return {
        "boxes": np.concatenate([empty(), *(boxes for boxes, _, _ in rows)]),
        "labels": np.array([label for _, labels, _ in rows for label in labels], np.int64),
        "difficult": np.array([flag for _, _, flags in rows for flag in flags], np.bool_),
        "counts": np.array([len(labels) for _, labels, _ in rows], np.int64),
    }


def read_annotation(file: Path) -> tuple[Boxes, list[int], list[bool]]:
    """Read one annotation: boxes (n, 4), labels and difficult flags; boxes without area are left out.

    Raises:
        DataError: The file is missing, is not a VOC annotation, or names a category that VOC does not have.
    """
    try:
        root = parse_xml(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except (EncodingError, ElementTree.ParseError) as error:
        raise DataError(f"{file} is not valid XML: {error}") from None
    items = [item for item in (_read_object(element, root, file) for element in root.iter("object")) if item]
    boxes = np.array([box for box, _, _ in items], np.float32).reshape(-1, 4)
    return boxes, [label for _, label, _ in items], [difficult for _, _, difficult in items]


def _read_object(
    element: ElementTree.Element, root: ElementTree.Element, file: Path
) -> tuple[tuple[float, float, float, float], int, bool] | None:
    name = (element.findtext("name") or "").strip()
    if name not in CATEGORIES:
        raise DataError(f"{file} has an object '{name}', which is not a VOC category{closest(name, CATEGORIES)}")
    try:
        xmin, ymin, xmax, ymax = (
            float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        width, height = (float(root.findtext(f"size/{side}") or "inf") for side in ("width", "height"))
    except ValueError:
        raise DataError(f"{file}: the box of an object '{name}' does not have four numbers") from None
    box = (max(xmin - 1, 0.0), max(ymin - 1, 0.0), min(xmax, width), min(ymax, height))
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return (box, CATEGORIES.index(name), difficult) if box[2] > box[0] and box[3] > box[1] else None
