"""How numbers are written: as many digits as their spread bears out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sslkit.ablation import statistics
from sslkit.ablation.results import Results
from sslkit.ablation.statistics import Difference, Mean

MINUS = "\N{MINUS SIGN}"
_KIB = 1024


@dataclass(frozen=True)
class Style:
    """How one metric is written.

    Attributes:
        factor: 100 for a rate, which is written in percent.
        decimals: Behind the point.
    """

    factor: float
    decimals: int

    @property
    def unit(self) -> str:
        """Behind the metric's name."""
        return " (%)" if self.factor == 100 else ""

    def plain(self, value: float) -> str:
        """Write a value; 0.713 is 71.3."""
        text = f"{self.factor * value:.{self.decimals}f}"
        return text.replace("-", MINUS) if float(text) else text.removeprefix("-")

    def signed(self, value: float) -> str:
        """Write a difference, with its sign."""
        text = self.plain(value)
        return text if text.startswith(MINUS) or not float(text) else f"+{text}"

    def mean(self, mean: Mean) -> str:
        """Write a mean with its standard deviation: 71.3 ± 0.4."""
        return self.plain(mean.value) + ("" if mean.std is None else f" ± {self.plain(mean.std)}")

    def difference(self, found: Difference) -> str:
        """Write a difference with its interval: −2.1 [−3.0, −1.2] *; the star is for one that excludes zero."""
        if found.low is None or found.high is None:
            return self.signed(found.value)
        ends = f"[{self.signed(found.low)}, {self.signed(found.high)}]"
        return f"{self.signed(found.value)} {ends}{' *' if found.excludes_zero else ''}"


def style(results: Results, name: str) -> Style:
    """Choose how a metric is written: in percent if all of its values lie in [0, 1], with one or two decimals."""
    reads = [statistics.metric_reader(name), *(statistics.reference_reader(row, name) for row in statistics.reference_names(results))]
    found = [value for arm in results.arms for read in reads for value in statistics.seed_values(arm, read)]
    present = [value for value in found if value is not None]
    rate = all(0 <= value <= 1 for value in present)
    means = [statistics.mean(arm, read) for arm in results.arms for read in reads]
    spread = _largest(item.std for item in means if item and item.std) * (100 if rate else 1)
    if rate:
        return Style(100, min(2, max(1, _places(spread, 1))) if spread else 1)
    digits = _places(spread, 2) if spread else _places(_largest(map(abs, present)), 3)
    return Style(1, min(6, max(0, digits)))


def _largest(values: Iterable[float]) -> float:
    return max(values, default=0.0)


def _places(value: float, digits: int) -> int:
    """Return the decimals that show a value with so many significant digits."""
    return digits - 1 - math.floor(math.log10(value)) if value else digits


def brief(value: float) -> str:
    """Write a positive number with three digits, and thousands in full: 0.0123, 4.56, 1,234."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{min(6, max(0, _places(abs(value), 3)))}f}"


def gib(size: float) -> float:
    """Return bytes in GiB."""
    return size / _KIB**3
