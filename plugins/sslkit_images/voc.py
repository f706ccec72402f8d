"""Pascal VOC: photos in JPEGImages, boxes in Annotations, lists in ImageSets/Main."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sslkit.api import Objects, Source
from sslkit.boxes import Boxes, empty
from sslkit.errors import DataError, closest
from sslkit_images.folder import read_file
from sslkit_images.listing import Names

CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_URL = "http://host.robots.ox.ac.uk/pascal/VOC"
_ARCHIVES = {"VOC2007": "voc2007/VOCtrainval_06-Nov-2007.tar", "VOC2012": "voc2012/VOCtrainval_11-May-2012.tar"}
_TEST = {"VOC2007": "voc2007/VOCtest_06-Nov-2007.tar"}


class Voc(Source):
    """Pascal VOC: photos with boxes of 20 categories, as in VOC2007 and VOC2012.

    Boxes are those of the annotations in pixels from 0, right and bottom exclusive: the files count from 1 and include
    the last pixel, so (xmin, ymin, xmax, ymax) becomes (xmin - 1, ymin - 1, xmax, ymax).

    Args:
        root: Holds JPEGImages, Annotations and ImageSets, such as VOCdevkit/VOC2007.
        split: A list in ImageSets/Main: train, val, trainval, test, or one of your own.
        difficult: What becomes of objects marked difficult. "mark" hands them on as such: no crop is made of them,
            and a photo that shows a category only in difficult objects counts neither for nor against it, as in VOC's
            own evaluation. "keep" treats them as any others, "drop" as if they were not there.
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
        """The file that lists the split's photos."""
        return self.root / "ImageSets" / "Main" / f"{self.split}.txt"

    def missing(self) -> str | None:
        """Say which folder or list is not there, and for VOC2007 and VOC2012 how to get it."""
        lacking = [name for name in ("JPEGImages", "Annotations") if not (self.root / name).is_dir()]
        if lacking:
            what = f"{self.root.absolute()} has no {' and no '.join(lacking)}"
            return f"VOC is not where it is looked for: {what}{self._get()}"
        if self.list.is_file():
            return None
        there = sorted(path.stem for path in self.list.parent.glob("*.txt") if "_" not in path.stem)
        hint = closest(self.split, there) or (f"; it has {', '.join(there)}" if there else "")
        return f"there is no list {self.list.absolute()}{hint}{self._get()}"

    def _get(self) -> str:
        archive = (_TEST if self.split == "test" else _ARCHIVES).get(self.root.name)
        if archive is None:
            return ""
        file = self.root.parent.parent / Path(archive).name
        return (
            f"; get it with\n        curl --create-dirs -o {file} {_URL}/{archive}"
            f"\n        tar -xf {file} -C {file.parent}"
        )

    def open(self) -> None:
        """List the photos and read their boxes.

        Raises:
            DataError: Folders, lists, photos or annotations are missing, or an annotation cannot be read.
        """
        if missing := self.missing():
            raise DataError(missing)
        names = [words[0] for line in self.list.read_text(encoding="utf-8").splitlines() if (words := line.split())]
        if not names:
            raise DataError(f"{self.list} lists no photos")
        there = {path.stem for path in (self.root / "JPEGImages").glob("*.jpg")}
        lacking = [name for name in names if name not in there]
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(names)} photos that {self.list} lists are not in {self.root / 'JPEGImages'}: "
                f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}"
            )
        self._names = Names(names)
        found = _read(self.root / "Annotations", names)
        self._boxes, self._labels, self._hard = found["boxes"], found["labels"], found["difficult"]
        self._offsets = np.concatenate([[0], np.cumsum(found["counts"])])

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return JPEGImages/file name."""
        return f"JPEGImages/{self._names[index]}.jpg"

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return boxes, labels, and which objects are difficult, as `difficult` says."""
        part = slice(self._offsets[index], self._offsets[index + 1])
        found, labels, hard = self._boxes[part], self._labels[part], self._hard[part]
        if self.difficult == "drop":
            return Objects(found[~hard], labels[~hard])
        return Objects(found, labels, hard if self.difficult == "mark" else None)


def _read(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    rows = [annotation(folder / f"{name}.xml") for name in names]
    return {
        "boxes": np.concatenate([empty(), *(found for found, _, _ in rows)]),
        "labels": np.array([label for _, labels, _ in rows for label in labels], np.int64),
        "difficult": np.array([hard for _, _, hards in rows for hard in hards], np.bool_),
        "counts": np.array([len(labels) for _, labels, _ in rows], np.int64),
    }


def annotation(file: Path) -> tuple[Boxes, list[int], list[bool]]:
    """Read one annotation: boxes (n, 4), labels and difficult flags; boxes without area are left out.

    Raises:
        DataError: It is missing, no VOC annotation, or names a category that VOC does not have.
    """
    try:
        root = ElementTree.fromstring(file.read_bytes())  # noqa: S314 - Python's expat refuses entity bombs
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is no XML: {error}") from None
    found = [item for item in (_object(element, root, file) for element in root.iter("object")) if item]
    made = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    return made, [label for _, label, _ in found], [hard for _, _, hard in found]


def _object(
    element: ElementTree.Element, root: ElementTree.Element, file: Path
) -> tuple[tuple[float, float, float, float], int, bool] | None:
    name = (element.findtext("name") or "").strip()
    if name not in CATEGORIES:
        raise DataError(f"{file} has an object '{name}', which is no category of VOC{closest(name, CATEGORIES)}")
    try:
        xmin, ymin, xmax, ymax = (
            float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        width, height = (float(root.findtext(f"size/{side}") or "inf") for side in ("width", "height"))
    except ValueError:
        raise DataError(f"{file}: the box of an object '{name}' has no four numbers") from None
    box = (max(xmin - 1, 0.0), max(ymin - 1, 0.0), min(xmax, width), min(ymax, height))
    hard = (element.findtext("difficult") or "0").strip() == "1"
    return (box, CATEGORIES.index(name), hard) if box[2] > box[0] and box[3] > box[1] else None
