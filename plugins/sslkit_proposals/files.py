"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file aside, flush it to the disk, and rename it into place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")  # machines may share the folder
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write one .npy file."""
    with whole(path) as file:
        np.save(file, array, allow_pickle=False)


def save_json(path: Path, value: Any) -> None:
    """Write one JSON file."""
    with whole(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def load_json(path: Path) -> Any:
    """Read one JSON file; None when it is not there."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def digest(value: Any) -> str:
    """Name a JSON value by 12 hex digits of its hash."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()


def encoded(key: str) -> bytes:
    """Return the bytes of a name, also of one that is no text: names of files may hold any bytes."""
    return key.encode(errors="surrogatepass")


def number(data: bytes) -> int:
    """Hash bytes to a whole number in [1, 2**64)."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") or 1
