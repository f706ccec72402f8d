"""Long lists of file names as two arrays, so that worker processes share their memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class Names:
    """A list of strings, held as one array of UTF-8 bytes and one of offsets."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.text = np.frombuffer(b"".join(encoded), np.uint8)
        self.offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        """Return one name."""
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is not in 0 to {len(self) - 1}")
        return self.text[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")
