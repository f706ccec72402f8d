"""Long lists of file names, stored as two arrays so that worker processes share their memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sslkit_images.problems import NAMED, cut

_LONGEST = 200
"""Characters of a path that a message shows."""


class NameList:
    """An immutable list of strings, stored as one array of UTF-8 bytes and one of offsets."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.text: npt.NDArray[np.uint8] = np.frombuffer(b"".join(encoded), np.uint8)
        self.offsets: npt.NDArray[np.int64] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    @classmethod
    def concatenate(cls, texts: Sequence[npt.NDArray[np.uint8]], lengths: Sequence[npt.NDArray[np.int32]]) -> NameList:
        """Concatenate lists, each passed as its UTF-8 bytes and the lengths of its names."""
        names = cls(())
        names.text = np.concatenate([names.text, *texts])
        names.offsets = np.concatenate([names.offsets, np.cumsum(np.concatenate(lengths), dtype=np.int64)])
        return names

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        """Return one name."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not between 0 and {len(self) - 1}")
        return self.text[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")


def abbreviate(names: Sequence[str]) -> str:
    """Join the first names, each cut if it is long, and say how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(cut(name, _LONGEST) for name in names[:NAMED]) + more
