"""What a tar holds: images, labels and objects as flat arrays, found once and kept in the cache."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sslkit.boxes import Boxes
from sslkit.folders import cache_dir

_VERSION = 1
"""Raise it when the same tar is indexed differently."""
NO_LABEL = -1


class Tar(NamedTuple):
    """A tar as it was when it was looked at; another size or time of writing makes it another one."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def at(cls, path: Path | str, number: int | None = None) -> Tar:
        """Look at a tar by its path, or by the number that it is open under.

        Raises:
            OSError: It is not there.
        """
        found = os.stat(path if number is None else number)  # noqa: PTH116 - also of what is open
        return cls(os.path.abspath(path), found.st_size, found.st_mtime_ns)  # noqa: PTH100 - names may be no text


class Asked(NamedTuple):
    """What is looked for in a tar.

    Attributes:
        suffixes: Endings of images, behind the first dot of a name and with it, in lower case.
        label: The ending of the members that hold labels, and the keys that lead to it inside JSON.
    """

    suffixes: tuple[str, ...]
    label: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The n images and m objects of one tar, in its order.

    Attributes:
        text: All names, one after the other, UTF-8.
        lengths: Shape (n,): of each name, bytes.
        hashes: Shape (n,): of each name.
        at: Shape (n,): where the image begins in the tar.
        size: Shape (n,): its bytes.
        labels: Shape (n,), `NO_LABEL` where there is none.
        counts: Shape (n,): objects of each image.
        boxes: Shape (m, 4), xyxy pixels.
        classes: Shape (m,): their labels.
        difficult: Shape (m,).
        faults: Shape (0,) or (1,): what is wrong with labels, for when they are needed.
    """

    text: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.uint64]
    at: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int32]
    boxes: Boxes
    classes: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]
    faults: npt.NDArray[np.str_]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.at)


def hash_of(name: bytes) -> int:
    """Hash a name to 64 bits."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def kept(tar: Tar, asked: Asked) -> Part | None:
    """Return what was kept of a tar; None when there is nothing, or nothing that can be read."""
    try:
        with _file(tar, asked).open("rb") as file:
            arrays = [np.load(file, allow_pickle=False) for _ in fields(Part)]
    except (OSError, ValueError, EOFError):
        return None
    return Part(*arrays)


def keep(tar: Tar, asked: Asked, part: Part) -> OSError | None:
    """Keep what was found in a tar; return why that was not possible. Several processes may do so at once."""
    final = _file(tar, asked)
    aside = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            for name in fields(Part):
                np.save(file, getattr(part, name.name), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(final)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        return error
    return None


def _file(tar: Tar, asked: Asked) -> Path:
    what: Any = ("shards", _VERSION, tuple(tar), tuple(asked))
    digest = blake2b(repr(what).encode(errors="surrogatepass"), digest_size=12).hexdigest()
    return cache_dir() / "shards" / f"{digest}.index"
