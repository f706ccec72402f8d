"""Write and read the files of a store: a file is complete or does not exist, and a damaged one counts as missing."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslkit.files import load_cache, replace_file


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file.

    Raises:
        StorageError: It cannot be written.
    """
    with replace_file(path) as part, part.open("xb") as file:
        np.save(file, array, allow_pickle=False)


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file.

    Raises:
        StorageError: It cannot be written.
    """
    with replace_file(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def load_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON file with an object; return None if it does not exist or is damaged."""
    return load_cache(path, "a part of a store of proposals", lambda file: dict(json.load(file)))


def digest(value: Any) -> str:
    """Hash a JSON value to 12 hex digits."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()


def encode_name(key: str) -> bytes:
    """Encode a name to bytes. File names may hold any bytes, so invalid text is accepted."""
    return key.encode(errors="surrogatepass")


def hash_bytes(data: bytes) -> int:
    """Hash bytes to an integer in [1, 2**64)."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") or 1
