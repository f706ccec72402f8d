"""Means over seeds, and differences to the full recipe that are paired by seed. Nothing is averaged over holes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sslkit.ablation.results import ArmResult, Results, Trial

LEVEL = 0.95
"""Coverage of the intervals."""
Read = Callable[[Trial], float | None]
"""Takes one number from a finished trial; None or NaN where it has none."""


@dataclass(frozen=True)
class Mean:
    """Over the seeds.

    Attributes:
        value: Their mean.
        std: With n - 1 in the denominator; None for one seed.
        n: Number of seeds.
    """

    value: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean of differences at equal seeds, with its interval.

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


def metric(name: str) -> Read:
    """Return what reads a metric of the trained backbone."""
    return lambda trial: trial.metrics.get(name)


def reference(features: str, name: str) -> Read:
    """Return what reads a metric of features that were not trained, such as "raw pixels"."""
    return lambda trial: trial.references.get(features, {}).get(name)


def values(arm: ArmResult, read: Read) -> list[float | None]:
    """Return one number per seed; None for a hole."""
    read_ = [read(trial) if trial.state == "finished" else None for trial in arm.trials]
    return [value if value is not None and math.isfinite(value) else None for value in read_]


def complete(arm: ArmResult, read: Read) -> list[float] | None:
    """Return one number per seed, or None where any of them is a hole."""
    found = values(arm, read)
    whole = [value for value in found if value is not None]
    return whole if whole and len(whole) == len(found) else None


def mean(arm: ArmResult, read: Read) -> Mean | None:
    """Return mean and standard deviation over the seeds, or None where any seed is a hole."""
    found = complete(arm, read)
    if found is None:
        return None
    return Mean(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def difference(arm: ArmResult, read: Read, full: ArmResult, read_full: Read | None = None) -> Difference | None:
    """Return the mean of the differences to the full recipe, each taken at one seed, with a t interval.

    Args:
        arm: Compared with `full`, and with a trial for each of its seeds.
        read: Of `arm`'s trials.
        full: Compared with.
        read_full: Of `full`'s trials; `read` by default.

    Returns:
        None where any seed of either arm is a hole.

    Raises:
        ValueError: The two arms have different seeds, which cannot be paired.
    """
    seeds = [[trial.seed for trial in item.trials] for item in (arm, full)]
    if seeds[0] != seeds[1]:
        raise ValueError(f"{arm.name} has seeds {seeds[0]} and {full.name} has {seeds[1]}: these cannot be paired")
    ours, theirs = complete(arm, read), complete(full, read_full or read)
    if ours is None or theirs is None:
        return None
    return _interval([a - b for a, b in zip(ours, theirs, strict=True)])


def _interval(found: Sequence[float]) -> Difference:
    """Return the mean with Student's interval: mean +- t(0.975, n - 1) * std / sqrt(n)."""
    from scipy.special import stdtrit

    n, middle = len(found), statistics.fmean(found)
    if n == 1:
        return Difference(middle, None, None, 1)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * statistics.stdev(found) / math.sqrt(n)
    return Difference(middle, middle - half, middle + half, n)


def references(results: Results) -> list[str]:
    """Return the names of the features that were probed untrained beside the full recipe's trials, in their order."""
    return list(dict.fromkeys(name for trial in results.full.trials for name in trial.references))


def alike(results: Results, name: str) -> bool:
    """Say whether a metric has one value per seed, whatever the features: chance level, a count of classes."""
    reads = [metric(name), *(reference(features, name) for features in references(results))]
    rows = [values(arm, read) for arm in results.arms for read in reads]
    per_seed = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
    return any(len(found) > 1 for found in per_seed) and all(len(set(found)) < 2 for found in per_seed)
