"""Any tree of photos."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sslkit.api import Source
from sslkit.errors import DataError, closest
from sslkit_images.listing import Names

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Folder(Source):
    """Every photo below a folder, in the order of their paths; no labels are needed.

    Hidden files and folders are passed over; links to files are followed, links to folders are not.

    Args:
        root: The folder.
        split: A folder inside it, such as "train" in ImageNet's layout.
        labels: Take the first folder below as the label of a photo.
        suffixes: Endings of what counts as a photo, in lower case.
    """

    name = "folder"

    def __init__(
        self, *, root: Path, split: str | None = None, labels: bool = False, suffixes: tuple[str, ...] = SUFFIXES
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.labels = labels
        self.suffixes = tuple(suffixes)
        self.categories: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Where the photos are."""
        return self.root / self.split if self.split else self.root

    def missing(self) -> str | None:
        """Say that the folder is not there, and what is there instead."""
        folder = self.folder.absolute()
        if folder.is_dir():
            return None
        if folder.exists():
            return f"{folder} is a file, and a folder of photos is needed"
        near = next((parent for parent in folder.parents if parent.is_dir()), folder)
        there = sorted(path.name for path in near.iterdir() if path.is_dir() and not path.name.startswith("."))
        missing = folder.relative_to(near).parts[0]
        hint = closest(missing, there) or (f": it has {', '.join(there[:8])}" if there else ": it has no folders")
        return f"there is no folder {folder}: {near} has no '{missing}'{hint}"

    def open(self) -> None:
        """List the photos.

        Raises:
            DataError: The folder is missing or holds no photo.
        """
        if missing := self.missing():
            raise DataError(missing)
        self._names = Names(sorted(self._walk()))
        if not len(self._names):
            raise DataError(
                f"there are no photos below {self.folder.absolute()}; looked for {', '.join(self.suffixes)}, "
                f"found {_what_is_there(self.folder)}"
            )
        if self.labels:
            self._label()

    def _walk(self) -> Iterator[str]:
        for place, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(place).relative_to(self.folder)
            for file in files:
                if file.lower().endswith(self.suffixes) and not file.startswith("."):
                    yield (below / file).as_posix()

    def _label(self) -> None:
        first = [self._names[index].partition("/")[0] for index in range(len(self))]
        loose = sum("/" not in self._names[index] for index in range(len(self)))
        if loose:
            raise DataError(
                f"labels = true takes the first folder as label, but {loose} photos lie in {self.folder} itself"
            )
        names, numbers = np.unique(first, return_inverse=True)
        self.categories = tuple(str(name) for name in names)
        self._labels = numbers.astype(np.int64)

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the path below the folder."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.folder / self.key(index))

    def label(self, index: int) -> int | None:
        """Return the label, when labels are asked for."""
        return int(self._labels[index]) if self.labels else None


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait, and a device may have no end
            raise DataError(f"{path} cannot be read: it is no regular file")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _what_is_there(folder: Path) -> str:
    endings = sorted({path.suffix or "(none)" for path in folder.rglob("*") if path.is_file()})
    return f"files ending in {', '.join(endings[:8])}" if endings else "no files"
