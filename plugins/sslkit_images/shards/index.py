"""The index of a tar: its images, labels and objects as flat arrays, kept in the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sslkit.boxes import Boxes
from sslkit.files import load_cache, save_cache
from sslkit.folders import cache_dir
from sslkit_images.flat_index import FlatIndex

_VERSION = 2
"""Increase it when the same tar is indexed differently."""
NO_LABEL = -1
BAD_LABEL = -2
"""What stands in place of a label that cannot be read."""
LEFT_OUT = ("objects without a box of at least a pixel", "images beside that of their sample")
"""What members may be without being wrong."""


class Tar(NamedTuple):
    """A tar file, identified by its path, size and modification time."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def stat(cls, path: Path | str, descriptor: int | None = None) -> Tar:
        """Read the size and modification time of a tar, from its descriptor if it is open.

        Raises:
            OSError: The file does not exist.
        """
        status = os.stat(path if descriptor is None else descriptor)  # noqa: PTH116 - takes a descriptor, too
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)  # noqa: PTH100 - names may not be valid text


class Query(NamedTuple):
    """What to look for in a tar.

    Attributes:
        suffixes: Suffixes of images, in lower case: everything from the first dot of a name on.
        label: Suffix of the members that hold labels, then the keys that lead to the label inside JSON.
    """

    suffixes: tuple[str, ...]
    label: tuple[str, ...]


@dataclass(frozen=True)
class TarIndex(FlatIndex):
    """The n images and m objects of one tar, in the order of its members.

    Attributes:
        text: All names, concatenated, UTF-8.
        lengths: Shape (n,): length of each name, bytes.
        hashes: Shape (n,): hash of each name.
        starts: Shape (n,): offset of each image in the tar, bytes.
        sizes: Shape (n,): size of each image, bytes.
        labels: Shape (n,), `NO_LABEL` for an image without a label, `BAD_LABEL` for one that cannot be read.
        counts: Shape (n,): number of objects of each image.
        boxes: Shape (m, 4), xyxy pixels.
        classes: Shape (m,): labels of the objects.
        difficult: Shape (m,): whether an object is marked difficult.
        left_out: Shape (2,): numbers of what is left out, in the order of `LEFT_OUT`.
        label_problems: Shape (): what is wrong with the labels, as JSON; reported only if labels are used.
    """

    text: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int32]
    boxes: Boxes
    classes: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]
    left_out: npt.NDArray[np.int64]
    label_problems: npt.NDArray[np.str_]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.starts)


def hash_of(name: bytes) -> int:
    """Hash a name to 64 bits."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def load_index(tar: Tar, query: Query) -> TarIndex | None:
    """Load the cached index of a tar; return None if it does not exist or cannot be read."""
    return load_cache(_cache_file(tar, query), f"the index of {tar.path}", TarIndex.load)


def save_index(tar: Tar, query: Query, index: TarIndex) -> None:
    """Save the index of a tar to the cache, or warn that it is made again each time."""
    save_cache(_cache_file(tar, query), "the index of tars", index.save)


def _cache_file(tar: Tar, query: Query) -> Path:
    identity: Any = ("shards", _VERSION, tuple(tar), tuple(query))
    digest = blake2b(repr(identity).encode(errors="surrogatepass"), digest_size=12).hexdigest()
    return cache_dir() / "shards" / f"{digest}.index"
