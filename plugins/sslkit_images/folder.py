"""The source `folder`: any tree of image files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from sslkit.api import Source
from sslkit.errors import DataError, closest
from sslkit.files import EncodingError, read_text
from sslkit_images.names import NameList

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Folder(Source):
    """All images in a folder and its subfolders, sorted by path. No labels are needed.

    Hidden files and folders are skipped. Links to files are followed, links to folders are not.

    Args:
        root: The folder.
        split: A subfolder of `root`, such as "train" in ImageNet's layout.
        labels: Use the first folder in the path of an image as its label.
        suffixes: Suffixes of image files; upper and lower case are the same.
    """

    name = "folder"
    reads_in_threads = True
    opens_folder = True
    example: ClassVar = {"root": "images", "labels": True}

    def __init__(
        self, *, root: Path, split: str | None = None, labels: bool = False, suffixes: tuple[str, ...] = SUFFIXES
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.labels = labels
        self.suffixes = tuple("." + suffix.lower().lstrip("*.") for suffix in suffixes)
        self.categories: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """The folder that holds the images."""
        return self.root / self.split if self.split else self.root

    def missing(self) -> str | None:
        """Return an error message if the folder does not exist, with the closest match."""
        folder = self.folder.absolute()
        if os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir() fails for a name that is too long
            return None
        if os.path.exists(folder):  # noqa: PTH110 - as above
            return f"{folder} is a file; a folder of images is needed"
        parent = next(parent for parent in folder.parents if os.path.isdir(parent))  # noqa: PTH112
        folders = sorted(path.name for path in _entries(parent) if path.is_dir() and not path.name.startswith("."))
        missing = folder.relative_to(parent).parts[0]
        hint = closest(missing, folders) or (f": it has {', '.join(folders[:8])}" if folders else ": it has no folders")
        return f"folder not found: {folder}: {parent} has no '{missing}'{hint}"

    def open(self) -> None:
        """List the images.

        Raises:
            DataError: The folder is missing or holds no images, or a folder in it cannot be read.
        """
        if missing := self.missing():
            raise DataError(missing)
        self._names = NameList(sorted(self._walk()))
        if not len(self._names):
            raise DataError(
                f"no images found in {self.folder.absolute()}; looked for {', '.join(self.suffixes)}, "
                f"found {_describe_contents(self.folder)}"
            )
        if self.labels:
            self._read_labels()

    def _walk(self) -> Iterator[str]:
        for path, folders, files in os.walk(self.folder, onerror=_refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            relative = Path(path).relative_to(self.folder)
            for file in files:
                if file.lower().endswith(self.suffixes) and not file.startswith("."):
                    yield (relative / file).as_posix()

    def _read_labels(self) -> None:
        folders = [self._names[index].partition("/")[0] for index in range(len(self))]
        loose = sum("/" not in self._names[index] for index in range(len(self)))
        if loose:
            raise DataError(
                f"labels = true uses the first folder as the label, but {loose} images are directly in {self.folder}"
            )
        names, numbers = np.unique(folders, return_inverse=True)
        self.categories = tuple(str(name) for name in names)
        self._labels = numbers.astype(np.int64)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the path of an image, relative to the folder."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.folder / self.key(index))

    def label(self, index: int) -> int | None:
        """Return the label of an image; None unless `labels` is set."""
        return int(self._labels[index]) if self.labels else None


def _refuse(error: OSError) -> None:
    """Refuse a folder that cannot be read: its images would be left out in silence."""
    raise DataError(f"{error.filename} cannot be read: {error.strerror}")


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would block, and a device may never end
            raise DataError(f"{path} cannot be read: it is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def find_optional(file: Path) -> Path | None:
    """Return an optional file; None if it is not there.

    Raises:
        DataError: Something is in its place, or in that of its folder, that cannot be read, such as a link that leads
            nowhere.
    """
    for path in (file.parent, file):
        try:
            path.stat()
        except ValueError:  # no path holds a zero byte
            return None
        except OSError as error:
            if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink() fails for a name that is too long
                raise DataError(
                    f"{path} is a link to {path.readlink()}, which cannot be read: {error.strerror}"
                ) from None
            if not isinstance(error, FileNotFoundError):
                raise DataError(f"{path} cannot be read: {error.strerror}") from None
            return None
    return file


def read_lines(file: Path) -> tuple[str, ...]:
    """Read the lines of a text file.

    Raises:
        DataError: The file cannot be read, or is not text in UTF-8 or with a byte order mark.
    """
    try:
        return tuple(read_text(file).removesuffix("\n").split("\n"))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except EncodingError as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _describe_contents(folder: Path) -> str:
    endings = sorted({path.suffix or "(none)" for path in folder.rglob("*") if path.is_file()})
    return f"files ending in {', '.join(endings[:8])}" if endings else "no files"
