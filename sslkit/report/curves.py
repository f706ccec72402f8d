"""What the trials logged while they trained, read and thinned out for small plots."""

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
"""Steps, and the value at each; None where it was not finite."""
Value = tuple[float, float, float]
"""Smallest, mean and largest of a stretch of steps."""
POINTS = 300
"""Numbers of one curve, at most: three for every stretch."""
BUDGET = 150_000
"""Numbers of a whole page; where there are more curves, each has fewer."""
_FEWEST = 60


@dataclass(frozen=True)
class Thinned:
    """A curve in a hundred stretches or fewer.

    Attributes:
        steps: The middle of each stretch.
        values: None for a stretch without a finite value.
    """

    steps: Sequence[float]
    values: Sequence[Value | None]


@dataclass(frozen=True)
class TrialCurves:
    """What one trial logged.

    Attributes:
        arm: Its number among the arms.
        curves: "scene-scene.loss" -> its curve.
    """

    arm: int
    seed: int
    curves: Mapping[str, Thinned]


def read(folder: Path) -> dict[str, Curve]:
    """Read a run's log; a torn or foreign line is passed over, and a missing log is an empty one."""
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


def read_all(results: Results) -> list[TrialCurves]:
    """Read every trial's log, thinned out to what a page can hold; trials without one are left out."""
    count = sum(len(arm.trials) for arm in results.arms)
    found = []
    for number, arm in enumerate(results.arms):
        for trial in arm.trials:
            curves = read(Path(trial.folder))
            points = min(POINTS, max(_FEWEST, BUDGET // max(1, count * len(curves))))
            if curves:
                thinned = {name: thin(*curve, points) for name, curve in curves.items()}
                found.append(TrialCurves(number, trial.seed, thinned))
    return found


def thin(steps: Sequence[float], values: Sequence[float | None], points: int = POINTS) -> Thinned:
    """Return the smallest, mean and largest value of equal stretches: noise is averaged, and no spike is lost.

    Args:
        steps: Ascending (n).
        values: One for each step (n).
        points: Numbers to keep at most, three or more; each stretch needs three.
    """
    n, count = len(steps), min(len(steps), points // 3)
    stretches = [slice(i * n // count, (i + 1) * n // count) for i in range(count)]
    return Thinned([fmean(steps[part]) for part in stretches], [_value(values[part]) for part in stretches])


def _value(values: Sequence[float | None]) -> Value | None:
    numbers = [value for value in values if value is not None]
    return (min(numbers), fmean(numbers), max(numbers)) if numbers else None


def names(found: Sequence[TrialCurves]) -> list[str]:
    """Return every curve's name, in the order of their first appearance."""
    return list(dict.fromkeys(name for trial in found for name in trial.curves))


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Return an axis that shows all but the outermost half per cent at either end, where that is worth it.

    A few wild values, such as the first steps' loss, must not flatten all the rest; where they do not, all are shown.
    """
    ordered = sorted(values)
    cut = len(ordered) // 200
    low, high = ordered[cut], ordered[-1 - cut]
    if ordered[-1] - ordered[0] <= 2 * (high - low):
        low, high = ordered[0], ordered[-1]
    room = 0.04 * (high - low) or 0.04 * abs(high) or 0.5
    return low - room, high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about so many round numbers between two ends: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [place * step for place in range(first, math.floor(high / step) + 1)]
