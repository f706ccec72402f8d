"""The source `shards`: images in tar files in WebDataset's layout, with random access."""

from __future__ import annotations

import io
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from sslkit.api import Objects, Progress, Source, no_progress
from sslkit.errors import DataError
from sslkit.images import Header, read_header
from sslkit_images.folder import SUFFIXES
from sslkit_images.frames import upright_boxes
from sslkit_images.names import NameList, abbreviate
from sslkit_images.problems import Problems
from sslkit_images.shards import files
from sslkit_images.shards.categories import CATEGORIES, read_categories
from sslkit_images.shards.index import LEFT_OUT, NO_LABEL, Query, TarIndex
from sslkit_images.shards.indexing import add_all, index_tars
from sslkit_images.shards.patterns import TarList

_HEAD = 1 << 16
"""Bytes in which the header of an image usually lies."""
_PNG = b"\x89PNG"
_MAX_CATEGORIES = 1_000_000


class Shards(Source):
    """Images in tar files (WebDataset), for data sets with more files than a disk can open quickly.

    The members of a sample share a key: their name up to the first dot of its last component. The image is the member
    whose suffix is in `suffixes`. Images keep the order of the tars and of the members in them, and their keys are the
    members' names. If a name occurs in two tars, every key is prefixed with the name of its tar. Boxes of objects are
    in pixels of the upright image, as `sslkit images pack` writes them. Labels and objects of more than 16 MiB for one
    image are refused.

    Each tar is indexed once. The index stays in the cache folder until the tar's size or modification time changes.

    Args:
        root: The folder that holds the tars.
        pattern: Paths of the tars inside it: "train-{0000..0146}.tar", "{train,val}/*.tar". Every tar that the
            braces name must exist.
        labels: Where to read the label of an image. "cls": the sample's .cls member, a number as text. "json.KEY": the
            number under KEY in the sample's JSON; KEY may be several keys joined by dots.
        categories: A file with the names of the labels, one per line. By default `categories.txt` in `root`; if
            that file does not exist, the numbers are the names.
        suffixes: Suffixes of images, in lower case: everything from the first dot on.
    """

    name = "shards"
    reads_in_threads = True

    def __init__(
        self, *, root: Path, pattern: str = "*.tar", labels: str | None = None, categories: Path | None = None,
        suffixes: tuple[str, ...] = SUFFIXES,
    ) -> None:  # fmt: skip
        self.tar_list = TarList(Path(root), pattern)
        self.labels = labels
        self.categories_file = categories
        self.query = Query(
            tuple("." + suffix.lower().lstrip("*.") for suffix in suffixes), tuple((labels or "cls").split("."))
        )
        self.categories: Sequence[str] = ()
        self._indices: list[TarIndex] = []

    def missing(self) -> str | None:
        """Return an error message if an option is invalid, or if the folder, tars or categories file are missing."""
        if self.labels not in (None, "cls") and not (self.labels or "").startswith("json."):
            return f'labels = "{self.labels}" is neither "cls" nor "json.KEY"'
        if self.categories_file is not None and not self.categories_file.is_file():
            return f"the categories file was not found: {self.categories_file.absolute()}"
        return self.tar_list.missing()

    def prepare(self, progress: Progress) -> None:
        """Index the tars that are new or have changed.

        Raises:
            DataError: Some tars cannot be used; the message lists all their problems.
        """
        self._indices = self._index_tars(progress)

    def open(self) -> None:
        """Read the index.

        Raises:
            DataError: Tars are missing or damaged, or hold no images; or `labels` is set and some labels are missing.
        """
        if missing := self.missing():
            raise DataError(missing)
        indices, self._indices = self._indices or self._index_tars(no_progress), []
        if not any(map(len, indices)):
            raise DataError(
                f"{self.tar_list.root.absolute()}: no images found in {abbreviate(self._tar_names)}; looked for "
                f"members whose names continue after the first dot with {', '.join(self.query.suffixes)}"
            )
        self._names = _join_names(indices, self._tar_names)
        self._starts = np.concatenate([index.starts for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        self._first_images: list[int] = np.cumsum([0, *map(len, indices)]).tolist()
        self._labels = np.concatenate([index.labels for index in indices]) if self.labels else None
        if self._labels is not None:
            problems = _label_problems(indices, self._tar_names)
            for image in np.flatnonzero(self._labels == NO_LABEL).tolist():
                problems.add("images have no label", self._names[image])
            problems.raise_if_any(f'{self.tar_list.root.absolute()}: labels = "{self.labels}" cannot be used:')
        self._left_out = sum((index.left_out for index in indices), np.zeros(len(LEFT_OUT), np.int64))
        self._read_objects(indices)
        self.categories = self._read_categories()

    def _index_tars(self, progress: Progress) -> list[TarIndex]:
        tars = index_tars(self.tar_list.root, self.tar_list.paths(), self.query, progress)
        self._tars = [item.tar for item in tars]
        self._tar_names = [os.path.relpath(item.tar.path, self.tar_list.root) for item in tars]
        return [item.index for item in tars]

    def _read_objects(self, indices: Sequence[TarIndex]) -> None:
        self._boxes = np.concatenate([index.boxes for index in indices])
        self._classes = np.concatenate([index.classes for index in indices])
        difficult = np.concatenate([index.difficult for index in indices])
        self._difficult = difficult if difficult.any() else None
        counts = np.concatenate([index.counts for index in indices]) if len(self._boxes) else np.zeros(0, np.int32)
        self._offsets = np.cumsum(np.concatenate([[0], counts]), dtype=np.int64)

    def _read_categories(self) -> Sequence[str]:
        """Return the names of the labels.

        Raises:
            DataError: A label has no name.
        """
        labels = self._labels if self._labels is not None else np.zeros(0, np.int64)
        highest = max(labels.max(initial=-1), self._classes.max(initial=-1))
        if highest < 0:
            return ()
        owners = np.searchsorted(self._offsets, np.flatnonzero(self._classes == highest), "right") - 1
        image = self._names[int(np.concatenate([np.flatnonzero(labels == highest), owners])[0])]
        file = self.categories_file or self.tar_list.root / CATEGORIES
        if self.categories_file is None and not file.is_file():
            if highest >= _MAX_CATEGORIES:
                raise DataError(
                    f"label {highest} of {image} is too high: without a categories file, at most a million labels are "
                    "allowed"
                )
            return tuple(map(str, range(highest + 1)))
        names = read_categories(file)
        if highest >= len(names):
            raise DataError(
                f"{file} lists {len(names)} categories, but the highest label is {highest} (labels start at 0), of "
                f"{image}"
            )
        return names

    # ---------------------------------------------------------------------------------------------- reading

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the name of the member, or the key that the image had when it was packed."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the bytes of an image."""
        return self._read(index, int(self._sizes[index]))

    def _read(self, index: int, length: int) -> bytes:
        tar = self._tars[bisect_right(self._first_images, index) - 1]
        return files.read(tar, int(self._starts[index]), length)

    def objects(self, index: int) -> Objects:
        """Return the objects that were packed with an image, clipped to it."""
        part = slice(self._offsets[index], self._offsets[index + 1]) if len(self._boxes) else slice(0, 0)
        if part.start == part.stop:
            return Objects()
        header = _header(partial(self._read, index), int(self._sizes[index]), self.key(index))
        boxes, shown = upright_boxes(self._boxes[part], header, (0, 0), "upright", self.key(index))
        marks = self._difficult[part][shown] if self._difficult is not None else None
        return Objects(boxes[shown], self._classes[part][shown], marks, len(shown) - int(shown.sum()))

    def label(self, index: int) -> int | None:
        """Return the label of an image; None unless `labels` is set."""
        return int(self._labels[index]) if self._labels is not None else None

    def left_out(self) -> Mapping[str, int]:
        """Count the objects whose box has a side below a pixel, and the images beside those that are read."""
        return dict(zip(LEFT_OUT, self._left_out.tolist(), strict=True))


def _join_names(indices: Sequence[TarIndex], tars: Sequence[str]) -> NameList:
    """Return the names of the images, each prefixed with the name of its tar if two are equal."""
    hashes = np.sort(np.concatenate([index.hashes for index in indices]))
    if (hashes[1:] != hashes[:-1]).all():
        return NameList.concatenate([index.text for index in indices], [index.lengths for index in indices])
    names_by_tar = [NameList.concatenate([index.text], [index.lengths]) for index in indices]
    return NameList(
        f"{tar}/{names[number]}" for tar, names in zip(tars, names_by_tar, strict=True) for number in range(len(names))
    )


def _label_problems(indices: Sequence[TarIndex], names: Sequence[str]) -> Problems:
    """Return what is wrong with the labels in tars, given the names of the tars."""
    problems = Problems()
    for index, name in zip(indices, names, strict=True):
        add_all(problems, name, Problems(**json.loads(str(index.label_problems))))
    return problems


def _header(read: Callable[[int], bytes], size: int, name: str) -> Header | None:
    """Read the header of an image, from its first bytes if they suffice; None if it cannot be read.

    Args:
        read: Returns that many of its bytes.
        size: The number of its bytes.
        name: Its name.
    """
    for length in (_HEAD, size):
        data = read(min(length, size))
        if data.startswith(_PNG) and length < size:
            continue  # its orientation may follow the pixels
        with suppress(DataError):
            return read_header(io.BytesIO(data), name)
    return None
