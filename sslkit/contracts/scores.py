"""Check the scores of probes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from sslkit.contracts.arrays import is_finite, named, shown
from sslkit.contracts.blame import breach
from sslkit.plugins import Component

ROUNDING = 1e-6
"""By how much rounding may carry a rate across 0 or 1."""
_NOT_RATES = ("chosen_", "count_")


def is_rate(metric: str) -> bool:
    """Return whether the values of a metric lie in [0, 1]; others are counts, and settings that a probe chose."""
    return not metric.startswith(_NOT_RATES)


def checked_scores(component: Component, scores: Any) -> dict[str, float]:
    """Return the scores of a probe as Python's numbers.

    Raises:
        PluginError: They are not finite numbers with names, or a rate lies outside [0, 1].
    """
    if not isinstance(scores, Mapping) or not scores:
        what = "no scores" if isinstance(scores, Mapping) else named(scores)
        raise breach(component, "evaluate", f"returned {what}: return a dict, name of a score -> number")
    for name, value in scores.items():
        if fault := _fault(name, value):
            raise breach(component, "evaluate", f"returned {fault}")
    return {name: value if isinstance(value, int) else float(value) for name, value in scores.items()}


def _fault(name: Any, value: Any) -> str | None:
    if not isinstance(name, str):
        return f"{shown(name)} as the name of a score: write a string"
    if isinstance(value, bool) or not isinstance(value, Real):
        return f"{named(value)} as '{name}': return a number, such as tensor.item()"
    if not is_finite(value):
        instead = "return a finite number, or raise sslkit.errors.DataError if it cannot be measured"
        return f"{name} = {shown(value)}: {instead}"
    number = float(value)
    if is_rate(name) and not -ROUNDING <= number <= 1 + ROUNDING:
        return f"{name} = {number:g}, and rates lie in [0, 1]: name a setting chosen_{name}, a count count_{name}"
    return None
