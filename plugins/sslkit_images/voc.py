"""The source `voc`: Pascal VOC, with images in JPEGImages, boxes in Annotations and lists in ImageSets/Main."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from sslkit.api import Objects, Source
from sslkit.boxes import empty
from sslkit.errors import DataError, closest
from sslkit_images.folder import SUFFIXES, find_optional, read_file, read_lines
from sslkit_images.frames import Frame, place
from sslkit_images.names import NameList, abbreviate
from sslkit_images.problems import Problems
from sslkit_images.voc_annotation import CATEGORIES, VocAnnotation, read_annotation

_URL = "http://host.robots.ox.ac.uk/pascal/VOC"
_ARCHIVES = {"VOC2007": "voc2007/VOCtrainval_06-Nov-2007.tar", "VOC2012": "voc2012/VOCtrainval_11-May-2012.tar"}
_TEST = {"VOC2007": "voc2007/VOCtest_06-Nov-2007.tar"}
_NUMBER = re.compile(r"(.*\S)\s+[+-]?\d+")
"""A line that ends in a number, and what stands before it."""


class Voc(Source):
    """Pascal VOC (VOC2007, VOC2012 and data in their layout): images with boxes of 20 categories.

    Boxes are in pixels counted from 0, right and bottom exclusive. The annotation files count from 1 and include the
    last pixel, so (xmin, ymin, xmax, ymax) becomes (xmin - 1, ymin - 1, xmax, ymax). All files are checked when the
    source is opened. An object of which less than a pixel lies in its image is left out.

    Args:
        root: The folder that holds JPEGImages, Annotations and ImageSets, such as VOCdevkit/VOC2007.
        split: Name of a list in ImageSets/Main: train, val, trainval, test, or your own. Each line is an image's name
            without its suffix, perhaps with numbers after it.
        difficult: How to treat objects marked difficult. "mark" keeps the mark: they get no crops, and an image that
            shows a category only in difficult objects counts neither for nor against it, as in VOC's own evaluation.
            "keep" treats them like all others, "drop" removes them.
        frame: Which pixels boxes count if EXIF turns an image: those of the image as it is "stored", or of the
            "upright" one. "auto" decides by the width and height in the annotations, and refuses an image whose
            annotations do not tell. An image with objects and neither of the two sizes is refused in any case.
    """

    name = "voc"
    reads_in_threads = True
    categories = CATEGORIES

    def __init__(
        self, *, root: Path = Path("data/VOCdevkit/VOC2007"), split: str = "trainval",
        difficult: Literal["mark", "keep", "drop"] = "mark", frame: Frame = "auto",
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.split = split
        self.difficult = difficult
        self.frame = frame
        self._folder = self.root / "JPEGImages"

    @property
    def list_file(self) -> Path:
        """The file that lists the images of the split."""
        return self.root / "ImageSets" / "Main" / f"{self.split}.txt"

    def missing(self) -> str | None:
        """Return an error message if a folder or list is missing, with the download command for VOC2007 and VOC2012."""
        missing = [name for name in ("JPEGImages", "Annotations") if not (self.root / name).is_dir()]
        if missing:
            return f"VOC not found: {self.root.absolute()} has no {' and no '.join(missing)}{self._download_hint()}"
        try:
            if find_optional(self.list_file):
                return None
        except DataError as error:
            return str(error)
        lists = sorted(path.stem for path in self.list_file.parent.glob("*.txt") if "_" not in path.stem)
        hint = closest(self.split, lists) or (f"; the lists are {', '.join(lists)}" if lists else "")
        return f"list not found: {self.list_file.absolute()}{hint}{self._download_hint()}"

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
        files = self._files()
        names = [_listed(line, files) for line in read_lines(self.list_file) if line.strip()]
        self._check_list(names, files)
        self._names = NameList(files[name][0] for name in names)
        annotations = list(self._annotations(names))
        self._sizes = np.array([annotation.size for annotation in annotations], np.int32)
        self._boxes = np.concatenate([empty(), *(annotation.boxes for annotation in annotations)])
        self._labels = np.array([label for item in annotations for label in item.labels], np.int64)
        self._difficult = np.array([flag for item in annotations for flag in item.difficult], np.bool_)
        self._offsets = np.cumsum([0, *(len(item.labels) for item in annotations)], dtype=np.int64)

    def _files(self) -> dict[str, list[str]]:
        """Return the names of image files by what lists call them: the name without its suffix."""
        files: dict[str, list[str]] = {}
        for path in self._folder.iterdir():
            if path.name.lower().endswith(SUFFIXES):
                files.setdefault(path.stem, []).append(path.name)
        return files

    def _check_list(self, names: list[str], files: Mapping[str, list[str]]) -> None:
        """Check that each listed image is one file, and listed once."""
        if not names:
            raise DataError(f"{self.list_file} lists no images")
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{self.list_file} lists {len(repeated)} images more than once: {abbreviate(repeated)}")
        if missing := [name for name in names if name not in files]:
            plain = next((name for name in missing if Path(name).stem in files), None)
            hint = ""
            if plain:
                instead = f"write {Path(plain).stem}, not {abbreviate([plain])}"
                hint = f"; lists have neither folders nor suffixes: {instead}"
            raise DataError(
                f"{len(missing)} of {len(names)} images listed in {self.list_file} are not in {self._folder}: "
                f"{abbreviate(missing)}{hint}"
            )
        if several := [", ".join(sorted(files[name])) for name in names if len(files[name]) > 1]:
            raise DataError(f"{self._folder} has several files for one listed image: {abbreviate(several)}")

    def _annotations(self, names: list[str]) -> Iterator[VocAnnotation]:
        """Yield the annotations of images, or raise an error with all their problems."""
        folder, problems = self.root / "Annotations", Problems()
        for name in names:
            yield read_annotation(folder / f"{name}.xml", problems)
        problems.raise_if_any(f"annotations in {folder} cannot be used:")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the key of an image: JPEGImages/file name."""
        return f"JPEGImages/{self._names[index]}"

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return boxes, labels and difficult flags of an image, subject to the option `difficult`.

        Boxes are in pixels of the upright image, and clipped to it.

        Raises:
            DataError: The size in the annotation does not fit the image, or does not tell which pixels boxes count.
        """
        part = slice(self._offsets[index], self._offsets[index + 1])
        height, width = self._sizes[index].tolist()
        boxes, shown, turned, wrong_size = place(
            self._boxes[part], self.root / self.key(index), (height, width), self.frame
        )
        outside = len(shown) - int(shown.sum())
        difficult = self._difficult[part]
        if self.difficult == "drop":
            shown &= ~difficult
        marks = difficult[shown] if self.difficult == "mark" else None
        return Objects(boxes[shown], self._labels[part][shown], marks, outside, turned, wrong_size)


def _listed(line: str, files: Collection[str]) -> str:
    """Return the image that a line of a list names: all of it, or what stands before its numbers, such as 1 or -1."""
    name = line.strip()
    while name not in files and (split := _NUMBER.fullmatch(name)):
        name = split[1]
    return name
