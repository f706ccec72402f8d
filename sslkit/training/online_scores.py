"""Scores of online probes in the display of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sslkit.storage.run_folder import PROBE_TERM

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_AFTER_S = 1.0
"""Seconds after which the display says that probes are being measured."""


@dataclass
class ScoreBoard:
    """The newest score of each online probe, the one before it, and that of random weights.

    Attributes:
        baselines: `probe.NAME.METRIC` -> score of random weights.
        newest: The same names -> newest score.
        previous: The same names -> the score before.
    """

    baselines: Mapping[str, float]
    newest: dict[str, float]
    previous: dict[str, float] = field(default_factory=dict)
    _measuring_since: float | None = None

    def take(self, terms: Mapping[str, float]) -> Mapping[str, float]:
        """Take the scores out of a step's values, and return the others."""
        scores = {name: terms[name] for name in self.baselines if name in terms}
        if not scores:
            return terms
        self.previous |= {name: self.newest[name] for name in scores if name in self.newest}
        self.newest |= scores
        return {name: value for name, value in terms.items() if name not in scores}

    def values(self) -> Mapping[str, float]:
        """Return the newest scores."""
        return self.newest

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Say that probes are being measured, if the block takes longer than a second."""
        self._measuring_since = time.monotonic()
        try:
            yield
        finally:
            self._measuring_since = None

    def activity(self) -> str:
        """Return "probing" with the seconds so far, after the first one, and "" while nothing is measured."""
        since = self._measuring_since
        seconds = 0.0 if since is None else time.monotonic() - since
        return f"probing ({seconds:.0f} s)" if seconds > SHOWN_AFTER_S else ""

    def table(self) -> Table:
        """Return a table of the newest scores, with their change and the score of random weights."""
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("online probe", no_wrap=True)
        for column in ("now", "change", "random weights"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, baseline in self.baselines.items():
            newest, previous = self.newest.get(name), self.previous.get(name)
            change = "" if newest is None or previous is None else f"{newest - previous:+.3f}"
            now = "-" if newest is None else f"{newest:.3f}"
            table.add_row(name.removeprefix(PROBE_TERM), now, change, f"{baseline:.3f}")
        return table
