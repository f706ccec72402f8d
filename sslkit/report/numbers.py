"""Format numbers, with as many digits as their spread supports."""

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
class NumberFormat:
    """The format of one metric's values.

    Attributes:
        factor: 100 for a rate, which is written in percent; otherwise 1.
        decimals: Digits after the decimal point.
    """

    factor: float
    decimals: int

    @property
    def unit(self) -> str:
        """The unit to write after the metric's name."""
        return " (%)" if self.factor == 100 else ""

    def plain(self, value: float) -> str:
        """Format a value: 71.3 for 0.713."""
        text = f"{self.factor * value:.{self.decimals}f}"
        return text.replace("-", MINUS) if float(text) else text.removeprefix("-")

    def signed(self, value: float) -> str:
        """Format a difference with its sign: +2.1."""
        text = self.plain(value)
        return text if text.startswith(MINUS) or not float(text) else f"+{text}"

    def mean(self, mean: Mean) -> str:
        """Format a mean with its standard deviation: 71.3 ± 0.4."""
        return self.plain(mean.value) + ("" if mean.std is None else f" ± {self.plain(mean.std)}")

    def difference(self, difference: Difference) -> str:
        """Format a difference with its interval: −2.1 [−3.0, −1.2] *, where the star says that it excludes zero."""
        if difference.low is None or difference.high is None:
            return self.signed(difference.value)
        ends = f"[{self.signed(difference.low)}, {self.signed(difference.high)}]"
        return f"{self.signed(difference.value)} {ends}{' *' if difference.excludes_zero else ''}"


def number_format(results: Results, name: str) -> NumberFormat:
    """Choose the format of a metric: percent with one or two decimals if all of its values lie in [0, 1]."""
    readers = [
        statistics.metric_reader(name),
        *(statistics.reference_reader(row, name) for row in statistics.reference_names(results)),
    ]
    values = [value for arm in results.arms for read in readers for value in statistics.seed_values(arm, read)]
    present = [value for value in values if value is not None]
    rate = all(0 <= value <= 1 for value in present)
    means = [statistics.mean(arm, read) for arm in results.arms for read in readers]
    spread = _largest(item.std for item in means if item and item.std) * (100 if rate else 1)
    if rate:
        return NumberFormat(100, min(2, max(1, _decimals(spread, 1))) if spread else 1)
    decimals = _decimals(spread, 2) if spread else _decimals(_largest(map(abs, present)), 3)
    return NumberFormat(1, min(6, max(0, decimals)))


def _largest(values: Iterable[float]) -> float:
    return max(values, default=0.0)


def _decimals(value: float, digits: int) -> int:
    """Return the number of decimals that shows `digits` significant digits of a value."""
    return digits - 1 - math.floor(math.log10(value)) if value else digits


def short_number(value: float) -> str:
    """Format a number with three significant digits, or as a whole number from 100 on: 0.0123, 4.56, 1,234."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{min(6, max(0, _decimals(abs(value), 3)))}f}"


def gib(size: float) -> float:
    """Convert bytes to GiB."""
    return size / _KIB**3
