"""Read the training logs of trials, and thin their curves for small plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sslkit.ablation.results import Results
from sslkit.storage.run_folder import METRICS

Curve = tuple[list[float], list[float | None]]
"""Steps, and the value at each; None if it was not finite."""
Range = tuple[float, float, float]
"""Smallest, mean and largest value in an interval of steps."""
MAX_POINTS = 300
"""Most numbers in one curve: three per interval."""
PAGE_POINTS = 150_000
"""Numbers on a whole page; with more curves, each gets fewer."""
_MIN_POINTS = 60


@dataclass(frozen=True)
class ThinnedCurve:
    """A curve as at most a hundred intervals of steps.

    Attributes:
        steps: The middle of each interval.
        values: The range of values in each interval; None without a finite value.
    """

    steps: Sequence[float]
    values: Sequence[Range | None]


@dataclass(frozen=True)
class TrialCurves:
    """The curves of one trial.

    Attributes:
        arm: Index of the trial's arm.
        curves: "scene-scene.loss" -> its curve.
    """

    arm: int
    seed: int
    curves: Mapping[str, ThinnedCurve]


def read_log(folder: Path) -> dict[str, Curve]:
    """Read a run's log; skip truncated and foreign lines, and treat a missing log as empty."""
    curves: dict[str, Curve] = {}
    for record in _records(folder / METRICS):
        step = record.pop("step")
        for name, value in record.items():
            if name != "epoch" and (value is None or _is_number(value)):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value if value is not None and math.isfinite(value) else None)
    return curves


def _records(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and _is_number(record.get("step")):
                    yield record
    except OSError:
        return


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_curves(results: Results) -> list[TrialCurves]:
    """Read every trial's log, thinned for one page; leave out trials without a log."""
    count = sum(len(arm.trials) for arm in results.arms)
    trial_curves = []
    for number, arm in enumerate(results.arms):
        for trial in arm.trials:
            curves = read_log(Path(trial.folder))
            points = min(MAX_POINTS, max(_MIN_POINTS, PAGE_POINTS // max(1, count * len(curves))))
            if curves:
                thinned = {name: thin(*curve, points) for name, curve in curves.items()}
                trial_curves.append(TrialCurves(number, trial.seed, thinned))
    return trial_curves


def thin(steps: Sequence[float], values: Sequence[float | None], points: int = MAX_POINTS) -> ThinnedCurve:
    """Reduce a curve to the smallest, mean and largest value of equal intervals, which averages noise and keeps spikes.

    Args:
        steps: Ascending steps (n).
        values: One value per step (n).
        points: Most numbers to keep, at least three; each interval takes three.
    """
    n, count = len(steps), min(len(steps), points // 3)
    intervals = [slice(i * n // count, (i + 1) * n // count) for i in range(count)]
    return ThinnedCurve([fmean(steps[part]) for part in intervals], [_range(values[part]) for part in intervals])


def _range(values: Sequence[float | None]) -> Range | None:
    numbers = [value for value in values if value is not None]
    return (min(numbers), fmean(numbers), max(numbers)) if numbers else None


def curve_names(trial_curves: Sequence[TrialCurves]) -> list[str]:
    """Return the name of every curve, in the order of first appearance."""
    return list(dict.fromkeys(name for trial in trial_curves for name in trial.curves))


def axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of an axis for these values.

    A few extreme values, such as the loss of the first steps, must not flatten the rest. The axis therefore leaves out
    half a per cent of the values at each end, if that shrinks the range to less than half.
    """
    ordered = sorted(values)
    trim = len(ordered) // 200
    low, high = ordered[trim], ordered[-1 - trim]
    if ordered[-1] - ordered[0] <= 2 * (high - low):
        low, high = ordered[0], ordered[-1]
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 0.5
    return low - margin, high + margin


def axis_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers between two limits, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [place * step for place in range(first, math.floor(high / step) + 1)]
