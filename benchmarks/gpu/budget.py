"""Divide the time of the rehearsal: no part can take the time of those after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gpu.parts import Part

END_S = 3.0
"""Seconds before the end of the rehearsal in which no part runs: a killed part needs time to stop."""


class Budget:
    """The time of the rehearsal.

    Args:
        seconds: Time for everything, from now on.
        clock: Returns seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.began = clock()
        self.end = self.began + seconds - END_S

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.began

    @property
    def left(self) -> float:
        """Seconds for the parts that have not run yet."""
        return max(0.0, self.end - self.clock())

    def bound(self, parts: Sequence[Part], on_gpu: bool) -> float:
        """Return the seconds that the first of the remaining parts may take; the last one gets all that is left.

        Args:
            parts: The parts that have not run yet, in order.
            on_gpu: Which shares count.
        """
        shares = [part.share if on_gpu else part.cpu_share for part in parts if on_gpu or not part.needs_gpu]
        return self.left * shares[0] / sum(shares)
