"""Options that do not suit the solver of instance-instance, as a recipe's author sees them refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sslkit_univip.instances import InstanceInstance


def build(**options: Any) -> InstanceInstance:
    return InstanceInstance({"k": 4, "v": 2, "d": 16}, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"solver": "exact", "tolerance": 0.01},
            'tolerance = 0.01 is read only by solver = "sinkhorn", not by solver = "exact": leave it out',
        ),
        (
            {"solver": "unbalanced", "iterations": 100},
            'iterations = 100 is read only by solver = "sinkhorn", not by solver = "unbalanced": leave it out',
        ),
        (
            {"solver": "partial", "last_update": "rows"},
            'last_update = "rows" is read only by solver = "sinkhorn", not by solver = "partial": leave it out',
        ),
        (
            {"marginal_penalty": 2.0},
            'marginal_penalty = 2.0 is read only by solver = "unbalanced", not by solver = "sinkhorn": leave it out',
        ),
        (
            {"solver": "unbalanced", "mass": 0.5},
            'mass = 0.5 is read only by solver = "partial", not by solver = "unbalanced": leave it out',
        ),
        (
            {"solver": "exact", "entropic": False},
            (
                'entropic = false is read only by solver = "unbalanced" or solver = "partial", not by solver = "exact": '
                "leave it out"
            ),
        ),
        (
            {"solver": "exact", "normalise": False},
            (
                'normalise = false gives two sides of different totals, which no plan of solver = "exact" can meet: write '
                'normalise = true, or solver = "unbalanced" or "partial"'
            ),
        ),
        (
            {"solver": "exact", "epsilon": 0.2},
            'epsilon = 0.2 weighs an entropy, and solver = "exact" has none: leave it out',
        ),
        (
            {"solver": "partial", "epsilon": 0.2},
            'epsilon = 0.2 weighs an entropy, and solver = "partial" has none: leave it out, or write entropic = true',
        ),
        (
            {"solver": "unbalanced", "epsilon": 0.001},
            (
                "epsilon = 0.001 is less than 0.01, the least that POT's entropic solvers can take: raise it, or write "
                "entropic = false"
            ),
        ),
        (
            {"solver": "unbalanced", "marginal_penalty": 200.0},
            (
                "marginal_penalty = 200.0 is more than 1000 times epsilon = 0.1, from where POT's solver takes too many "
                'updates: lower it, or write solver = "sinkhorn", its limit'
            ),
        ),
        (
            {"solver": "unbalanced", "marginal_penalty": 20.0, "entropic": False},
            (
                "marginal_penalty = 20.0 is more than 10, from where POT's solver without entropy takes too many updates: "
                'lower it, or write entropic = true, or solver = "exact"'
            ),
        ),
    ],
)
def test_options_that_do_not_suit_the_solver_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(**options)


def test_every_problem_is_named() -> None:
    with pytest.raises(ValueError, match="^iterations = 10 .*; mass = 0.5 .*; normalise = false .*; epsilon = 0.2 "):
        build(solver="exact", iterations=10, mass=0.5, normalise=False, epsilon=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0.001, "iterations": 10, "tolerance": 0.01, "last_update": "rows", "normalise": False},
        {"solver": "exact", "epsilon": 0.1, "iterations": 50, "last_update": "columns"},  # the defaults, written out
        {"solver": "exact", "marginals": "uniform", "normalise": False},  # whose totals are equal
        {"solver": "unbalanced", "epsilon": 0.01, "marginal_penalty": 10.0, "normalise": False, "floor": 0.0},
        {"solver": "unbalanced", "entropic": False, "marginal_penalty": 10.0},
        {"solver": "partial", "mass": 1.0, "normalise": False, "floor": 0.0},
        {"solver": "partial", "entropic": True, "epsilon": 0.05},
    ],
)
def test_options_that_suit_the_solver_are_accepted(options: dict[str, Any]) -> None:
    build(**options)


def test_defaults_depend_on_the_solver() -> None:
    solvers = [build(solver=solver) for solver in ("sinkhorn", "exact", "unbalanced", "partial")]
    assert [solver.entropic for solver in solvers] == [True, False, True, False]
    assert (solvers[2].marginal_penalty, solvers[3].mass) == (1.0, 0.75)
