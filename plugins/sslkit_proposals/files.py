"""Write files atomically: a file is complete or does not exist."""

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
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write to a temporary file, flush it to disk, and rename it into place if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # other machines may share the folder
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def load_json(path: Path) -> Any:
    """Read a JSON file; return None if it does not exist."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def digest(value: Any) -> str:
    """Hash a JSON value to 12 hex digits."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()


def encode_name(key: str) -> bytes:
    """Encode a name to bytes. File names may hold any bytes, so invalid text is accepted."""
    return key.encode(errors="surrogatepass")


def hash_bytes(data: bytes) -> int:
    """Hash bytes to an integer in [1, 2**64)."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") or 1
