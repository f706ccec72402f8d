"""What the trials logged while they trained, read and thinned out for small plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslkit.ablation.results import Results

Curve = tuple[list[float], list[float | None]]
"""Steps, and the value at each; None where it was not finite or not logged."""
LOG = "metrics.jsonl"
POINTS = 300
"""Of one curve, at most."""
BUDGET = 120_000
"""Points of a whole page, at most; where there are more curves, each has fewer."""
_FEWEST = 40


@dataclass(frozen=True)
class TrialCurves:
    """What one trial logged.

    Attributes:
        arm: Its number among the arms.
        curves: "scene-scene.loss" -> its curve.
    """

    arm: int
    seed: int
    curves: Mapping[str, Curve]


def read(folder: Path) -> dict[str, Curve]:
    """Read a run's log; a torn or foreign line is passed over, and a missing log is an empty one."""
    curves: dict[str, Curve] = {}
    for record in _records(folder / LOG):
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


def thin(steps: Sequence[float], values: Sequence[float | None], points: int = POINTS) -> Curve:
    """Return at most so many points: the smallest and the largest of every stretch, so that no spike is lost.

    A stretch with a gap in it keeps one None, so that a line drawn through the points breaks there.

    Args:
        steps: Ascending (n).
        values: One for each step (n).
        points: Three or more.
    """
    n = len(steps)
    if n <= points:
        return list(steps), list(values)
    stretches = points // 3
    kept: list[int] = []
    for i in range(stretches):
        kept += _ends(values, range(i * n // stretches, (i + 1) * n // stretches))
    return [steps[i] for i in kept], [values[i] for i in kept]


def _ends(values: Sequence[float | None], places: range) -> list[int]:
    """Return where a stretch has its smallest and largest value, and its first gap, in order."""
    numbers = [(value, place) for place in places if (value := values[place]) is not None]
    gap = next((place for place in places if values[place] is None), None)
    found = {min(numbers)[1], max(numbers)[1]} if numbers else set()
    return sorted(found | ({gap} if gap is not None else set()))


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


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about so many round numbers between two ends: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [place * step for place in range(first, math.floor(high / step) + 1)]
