"""Means over seeds, and differences to the full recipe, paired by seed; both are None if any seed has no value."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sslkit.ablation.results import ArmResult, Results, Trial

LEVEL = 0.95
"""Confidence level of the intervals."""
Reader = Callable[[Trial], float | None]
"""Reads one number of a finished trial; None or NaN if the trial has none."""


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: The mean.
        std: Standard deviation, with n - 1 in the denominator; None for one seed.
        n: Number of seeds.
    """

    value: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean of differences at equal seeds, with its confidence interval.

    Attributes:
        value: The mean of (this - full) over the seeds.
        low: Lower end of the 95 % interval; None for one seed.
        high: Upper end; None for one seed.
        n: Number of pairs.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def metric_reader(name: str) -> Reader:
    """Return a function that reads a metric of the trained backbone."""
    return lambda trial: trial.metrics.get(name)


def reference_reader(features: str, name: str) -> Reader:
    """Return a function that reads a metric of features that were not trained, such as "raw pixels"."""
    return lambda trial: trial.references.get(features, {}).get(name)


def seed_values(arm: ArmResult, read: Reader) -> list[float | None]:
    """Return one number per seed; None for a hole."""
    numbers = [read(trial) if trial.state == "finished" else None for trial in arm.trials]
    return [value if value is not None and math.isfinite(value) else None for value in numbers]


def complete_values(arm: ArmResult, read: Reader) -> list[float] | None:
    """Return one number per seed, or None if there is any hole."""
    values = seed_values(arm, read)
    present = [value for value in values if value is not None]
    return present if present and len(present) == len(values) else None


def mean(arm: ArmResult, read: Reader) -> Mean | None:
    """Return the mean and standard deviation over the seeds, or None if there is any hole."""
    values = complete_values(arm, read)
    if values is None:
        return None
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def difference(arm: ArmResult, read: Reader, full: ArmResult, read_full: Reader | None = None) -> Difference | None:
    """Return the mean difference to the full recipe over equal seeds, with a t interval.

    Args:
        arm: The arm to compare, with a trial at each seed of `full`.
        read: Reads the number from `arm`'s trials.
        full: The full recipe.
        read_full: Reads the number from `full`'s trials; `read` by default.

    Returns:
        The difference, or None if either arm has a hole.

    Raises:
        ValueError: The two arms have different seeds, which cannot be paired.
    """
    seeds = [[trial.seed for trial in item.trials] for item in (arm, full)]
    if seeds[0] != seeds[1]:
        raise ValueError(f"{arm.name} has seeds {seeds[0]} and {full.name} has {seeds[1]}: these cannot be paired")
    ours, theirs = complete_values(arm, read), complete_values(full, read_full or read)
    if ours is None or theirs is None:
        return None
    return interval([a - b for a, b in zip(ours, theirs, strict=True)])


def interval(values: Sequence[float]) -> Difference:
    """Return the mean with Student's interval: mean +- t(0.975, n - 1) * std / sqrt(n)."""
    from scipy.special import stdtrit

    n, middle = len(values), statistics.fmean(values)
    if n == 1:
        return Difference(middle, None, None, 1)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return Difference(middle, middle - half, middle + half, n)


def reference_names(results: Results) -> list[str]:
    """Return the names of the untrained features that were probed in the full recipe's trials, in their order."""
    return list(dict.fromkeys(name for trial in results.full.trials for name in trial.references))


def is_constant(results: Results, name: str) -> bool:
    """Say whether a metric has the same value in all rows at every seed, such as chance level or a class count."""
    readers = [metric_reader(name), *(reference_reader(features, name) for features in reference_names(results))]
    rows = [seed_values(arm, read) for arm in results.arms for read in readers]
    per_seed = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
    return any(len(values) > 1 for values in per_seed) and all(len(set(values)) < 2 for values in per_seed)
