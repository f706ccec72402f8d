"""An index that is a handful of arrays, written to the cache one after another."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import IO, Self

import numpy as np


@dataclass(frozen=True)
class FlatIndex:
    """A dataclass whose fields are arrays."""

    @classmethod
    def load(cls, file: IO[bytes]) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is damaged. Also EOFError or OSError.
        """
        return cls(*(np.load(file, allow_pickle=False) for _ in fields(cls)))

    def save(self, file: IO[bytes]) -> None:
        """Write the arrays, one after another."""
        for item in fields(self):
            np.save(file, getattr(self, item.name), allow_pickle=False)
