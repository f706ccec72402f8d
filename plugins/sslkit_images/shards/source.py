"""Photos in tar files, as WebDataset has them, read at random."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslkit.api import Objects, Progress, Source, no_progress
from sslkit.errors import DataError
from sslkit_images.folder import SUFFIXES
from sslkit_images.listing import Names
from sslkit_images.shards import files
from sslkit_images.shards.index import NO_LABEL, Asked, Part, Tar, keep, kept
from sslkit_images.shards.patterns import TarList, some
from sslkit_images.shards.samples import read_tar

CATEGORIES = "categories.txt"
"""In the folder of the tars: the names of the labels, one a line."""
_THREADS = 8
"""Tars that are indexed at once: most of the time goes into waiting for the disk."""
_TOLD = 8
_MOST_CATEGORIES = 1_000_000


class Shards(Source):
    """Photos in tar files (WebDataset), for sets that outgrow the rate at which a disk opens files.

    A sample is what shares a key: a name up to the first dot of its last component. Its photo is the member whose
    ending is in `suffixes`. Photos come in the order of the tars and of the members in them, and are called as the
    members are; where a name occurs in two tars, the names of all begin with their tar's.

    Each tar is indexed once, and the index is kept in the cache folder until the tar's size or time of writing changes.

    Args:
        root: The folder of the tars.
        pattern: Which ones, below it: "train-{0000..0146}.tar", "{train,val}/*.tar". Names in braces must all be there.
        labels: Where the label of a photo is. "cls": in the sample's member of that ending, a number as text.
            "json.KEY": in its JSON, a number behind KEY, which may be several keys joined by dots.
        categories: A file with the names of the labels, one a line. Without it, `categories.txt` in `root` if there is
            one; else labels are called by their numbers.
        suffixes: Endings of what counts as a photo, in lower case: all that follows the first dot.
    """

    name = "shards"

    def __init__(
        self, *, root: Path, pattern: str = "*.tar", labels: str | None = None, categories: Path | None = None,
        suffixes: tuple[str, ...] = SUFFIXES,
    ) -> None:  # fmt: skip
        self.list = TarList(Path(root), pattern)
        self.labels = labels
        self.names = categories
        self.asked = Asked(
            tuple("." + suffix.lower().lstrip(".") for suffix in suffixes), tuple((labels or "cls").split("."))
        )
        self.categories: Sequence[str] = ()
        self._parts: list[Part] = []

    def missing(self) -> str | None:
        """Say that there is no such folder, which tars are not there, or that they are compressed."""
        if self.labels not in (None, "cls") and not (self.labels or "").startswith("json."):
            return f'labels = "{self.labels}" is neither "cls" nor "json.KEY"'
        if self.names is not None and not self.names.is_file():
            return f"there is no file {self.names.absolute()} with the names of categories"
        return self.list.missing()

    def prepare(self, progress: Progress) -> None:
        """Index the tars that are new or have changed.

        Raises:
            DataError: Some cannot be used; the message says everything that is wrong with them.
        """
        self._parts = self._indexed(progress)

    def open(self) -> None:
        """Read the index.

        Raises:
            DataError: Tars are missing or damaged, or hold no photos; labels are asked for, and some are missing.
        """
        if missing := self.missing():
            raise DataError(missing)
        parts, self._parts = self._parts or self._indexed(no_progress), []
        self._names = self._named(parts)
        self._at = np.concatenate([part.at for part in parts])
        self._size = np.concatenate([part.size for part in parts])
        self._starts: list[int] = np.cumsum([0, *map(len, parts)]).tolist()
        self._labels = np.concatenate([part.labels for part in parts]) if self.labels else None
        self._check_labels(parts)
        self._take_objects(parts)
        self.categories = self._numbered()

    def _indexed(self, progress: Progress) -> list[Part]:
        """Return the index of each tar."""
        paths = self.list.paths()
        found: list[Found] = []
        progress("indexing tars", 0, len(paths))
        with ThreadPoolExecutor(_THREADS) as pool:
            for item in pool.map(partial(look_into, self.asked), paths):
                found.append(item)
                progress("indexing tars", len(found), len(paths))
        if problems := [problem for item in found for problem in item.problems]:
            raise DataError(_all(f"{self.list.root.absolute()}: tars that cannot be used", problems))
        if unkept := [item.unkept for item in found if item.unkept]:
            progress(f"the index is not kept, and made again each time ({unkept[0]})", len(paths), len(paths))
        self._tars = [item.tar for item in found]
        return [item.part for item in found if item.part is not None]

    def _named(self, parts: Sequence[Part]) -> Names:
        """Return the members' names, or all behind their tar's where two are equal."""
        hashes = np.sort(np.concatenate([part.hashes for part in parts]))
        if not len(hashes):
            raise DataError(
                f"there are no photos in {some([tar.path for tar in self._tars])}; looked for members whose names go "
                f"on behind the first dot with {', '.join(self.asked.suffixes)}"
            )
        if (hashes[1:] != hashes[:-1]).all():
            return Names.joined([part.text for part in parts], [part.lengths for part in parts])
        folders = [os.path.relpath(tar.path, self.list.root) for tar in self._tars]
        each = [Names.joined([part.text], [part.lengths]) for part in parts]
        return Names(
            f"{folder}/{names[place]}"
            for folder, names in zip(folders, each, strict=True)
            for place in range(len(names))
        )

    def _check_labels(self, parts: Sequence[Part]) -> None:
        lacking = np.flatnonzero(self._labels == NO_LABEL) if self._labels is not None else ()
        if len(lacking):
            names = ", ".join(self._names[int(index)] for index in lacking[:3])
            faults = "; ".join(str(fault) for part in parts for fault in part.faults[:3])
            raise DataError(
                f'labels = "{self.labels}", and {len(lacking)} of {len(self)} photos have none: {names}'
                f"{', ...' if len(lacking) > 3 else ''}{'; ' + faults if faults else ''}"
            )

    def _take_objects(self, parts: Sequence[Part]) -> None:
        self._boxes = np.concatenate([part.boxes for part in parts])
        self._classes = np.concatenate([part.classes for part in parts])
        hard = np.concatenate([part.difficult for part in parts])
        self._hard = hard if hard.any() else None
        counts = np.concatenate([part.counts for part in parts]) if len(self._boxes) else np.zeros(0, np.int32)
        self._offsets = np.cumsum(np.concatenate([[0], counts]), dtype=np.int64)

    def _numbered(self) -> Sequence[str]:
        """Return the names of the labels.

        Raises:
            DataError: There are more labels than names.
        """
        labels = self._labels if self._labels is not None else np.zeros(0, np.int64)
        highest = max(labels.max(initial=-1), self._classes.max(initial=-1))
        file = self.names or self.list.root / CATEGORIES
        if highest < 0:
            return ()
        if self.names is None and not file.is_file():
            if highest >= _MOST_CATEGORIES:
                raise DataError(
                    f"there is a label {highest}: without a file of names, more than a million are not taken"
                )
            return tuple(map(str, range(highest + 1)))
        names = _lines(file)
        if highest >= len(names):
            raise DataError(f"{file} names {len(names)} categories, and there is a label {highest}; the first one is 0")
        return names

    # ---------------------------------------------------------------------------------------------- reading

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the member's name, or what the photo was called where it was packed."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the member's bytes."""
        tar = self._tars[bisect_right(self._starts, index) - 1]
        return files.read(tar, int(self._at[index]), int(self._size[index]))

    def objects(self, index: int) -> Objects:
        """Return the objects that were packed with the photo."""
        if not len(self._boxes):
            return Objects()
        part = slice(self._offsets[index], self._offsets[index + 1])
        return Objects(self._boxes[part], self._classes[part], self._hard[part] if self._hard is not None else None)

    def label(self, index: int) -> int | None:
        """Return the label, when labels are asked for."""
        return int(self._labels[index]) if self._labels is not None else None


class Found(NamedTuple):
    """What came of looking into one tar."""

    tar: Tar
    part: Part | None = None
    problems: Sequence[str] = ()
    unkept: OSError | None = None


def look_into(asked: Asked, path: Path) -> Found:
    """Return the index of a tar as it is kept, or make and keep it."""
    try:
        tar = Tar.at(path)
        part = kept(tar, asked)
        if part is not None:
            return Found(tar, part)
        part, faults = read_tar(tar, asked)
    except OSError as error:
        return Found(Tar(str(path), 0, 0), problems=[f"{path} cannot be read: {error.strerror}"])
    if faults:
        return Found(tar, problems=[f"{path} {fault}" for fault in faults])
    return Found(tar, part, unkept=keep(tar, asked, part))


def _all(what: str, problems: Sequence[str]) -> str:
    more = [f"and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else []
    return "\n    ".join([what, *problems[:_TOLD], *more])


def _lines(file: Path) -> tuple[str, ...]:
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    return tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))
