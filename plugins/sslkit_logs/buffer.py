"""A buffer for the records of a run, so that files are written at most once a second."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

EVERY_S = 1.0
"""Seconds between writes; the first record of a run is written at once."""


class Record(NamedTuple):
    """The terms of a step.

    Attributes:
        time: When the step ended, seconds since the epoch.
    """

    step: int
    terms: Mapping[str, float]
    time: float


@dataclass
class Buffer:
    """Records that wait to be written.

    Attributes:
        tried: When a write was last tried, on the monotonic clock.
    """

    records: list[Record] = field(default_factory=list)
    tried: float = -math.inf

    def add(self, step: int, terms: Mapping[str, float]) -> bool:
        """Add a record, and return whether it is time to write."""
        self.records.append(Record(step, dict(terms), time.time()))
        now = time.monotonic()
        if now - self.tried < EVERY_S:
            return False
        self.tried = now
        return True
