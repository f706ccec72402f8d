"""Options of instance-instance that belong to some of its solvers."""

from __future__ import annotations

import json
from typing import Any, Literal

Solver = Literal["sinkhorn", "exact", "unbalanced", "partial"]

OWNERS: dict[str, tuple[Solver, ...]] = {
    "iterations": ("sinkhorn",),
    "tolerance": ("sinkhorn",),
    "last_update": ("sinkhorn",),
    "entropic": ("unbalanced", "partial"),
    "marginal_penalty": ("unbalanced",),
    "mass": ("partial",),
}
"""Option -> the solvers that read it; `epsilon` is read by `sinkhorn` and by the others where they are entropic."""
DEFAULTS = {"epsilon": 0.1, "iterations": 50, "last_update": "columns"}
"""Values that any solver accepts, whether it reads them or not; of other options, only None."""

LEAST_EPSILON = 0.01
"""Smallest epsilon of POT's entropic solvers, for costs in [0, 2]: they compute exp(-cost / epsilon) as it stands."""
LARGEST_RATIO = 1000.0
"""Largest marginal penalty of an entropic unbalanced problem, in units of epsilon: updates grow in proportion."""
LARGEST_PENALTY = 10.0
"""Largest marginal penalty of an unbalanced problem without entropy, in units of cost: updates grow in proportion."""


def check(solver: Solver, entropic: bool, balanced: bool, options: dict[str, Any]) -> None:
    """Refuse options that the solver does not read or cannot work with.

    Args:
        solver: The solver.
        entropic: Whether its plan has an entropy.
        balanced: Whether the totals of the two sides are equal.
        options: The keys of `OWNERS` and `epsilon` -> values, None where an option without default is not set.

    Raises:
        ValueError: What to write instead.
    """
    problems = [
        f"{_shown(name, options[name])} is read only by {' or '.join(_shown('solver', owner) for owner in owners)}, "
        f"not by {_shown('solver', solver)}: leave it out"
        for name, owners in OWNERS.items()
        if solver not in owners and options[name] != DEFAULTS.get(name)
    ]
    if solver == "exact" and not balanced:
        problems.append(
            'normalise = false gives two sides of different totals, which no plan of solver = "exact" can meet: write '
            'normalise = true, or solver = "unbalanced" or "partial"'
        )
    if message := _range(solver, entropic, **{name: options[name] for name in ("epsilon", "marginal_penalty")}):
        problems.append(message)
    if problems:
        raise ValueError("; ".join(problems))


def _range(solver: Solver, entropic: bool, epsilon: float, marginal_penalty: float | None) -> str:
    """Return what is wrong with the two numbers for this solver, or nothing."""
    weight, penalty = _shown("epsilon", epsilon), _shown("marginal_penalty", marginal_penalty)
    high = marginal_penalty or 0.0
    if not entropic and epsilon != DEFAULTS["epsilon"]:
        choice = ", or write entropic = true" if solver in OWNERS["entropic"] else ""
        return f"{weight} weighs an entropy, and {_shown('solver', solver)} has none: leave it out{choice}"
    if not entropic and high > LARGEST_PENALTY:
        return (
            f"{penalty} is more than {LARGEST_PENALTY:g}, from where POT's solver without entropy takes too many "
            'updates: lower it, or write entropic = true, or solver = "exact"'
        )
    if solver != "sinkhorn" and entropic and epsilon < LEAST_EPSILON:
        return (
            f"{weight} is less than {LEAST_EPSILON:g}, the least that POT's entropic solvers can take: raise it, or "
            "write entropic = false"
        )
    if solver == "unbalanced" and entropic and high > LARGEST_RATIO * epsilon:
        return (
            f"{penalty} is more than {LARGEST_RATIO:g} times {weight}, from where POT's solver takes too many updates: "
            'lower it, or write solver = "sinkhorn", its limit'
        )
    return ""


def _shown(name: str, value: object) -> str:
    return f"{name} = {json.dumps(value)}"
