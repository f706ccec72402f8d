"""POT's solvers for a batch, compared with POT called for each problem, and with the problems' own conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog, minimize

from sslkit_univip import pot_solvers
from sslkit_univip.transport import sinkhorn

Array = np.ndarray[Any, np.dtype[np.float64]]
Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

PARTIAL = partial(pot_solvers.partial, mass=0.6)
SOLVERS: dict[str, Callable[..., torch.Tensor]] = {
    "exact": pot_solvers.exact,
    "unbalanced": pot_solvers.unbalanced,
    "unbalanced, no entropy": partial(pot_solvers.unbalanced, epsilon=None),
    "partial": PARTIAL,
    "partial, entropy": partial(PARTIAL, epsilon=0.1),
}
UNEQUAL = [name for name in SOLVERS if name != "exact"]
"""Solvers that take sides of different totals."""


def problem(k: int = 4, n: int | None = None, batch: int = 6, seed: int = 0) -> Problem:
    """Return costs in [0, 2] and masses of sum 1, in float64."""
    rng = np.random.default_rng(seed)
    n = n or k
    rows, columns = rng.dirichlet(np.ones(k), batch), rng.dirichlet(np.ones(n), batch)
    return torch.tensor(rng.uniform(0, 2, (batch, k, n))), torch.tensor(rows), torch.tensor(columns)


def printed(k: int = 4, batch: int = 6, seed: int = 0) -> Problem:
    """Return masses as the paper prints them: totals of 5 to 150, and zeros."""
    cost, rows, columns = problem(k, batch=batch, seed=seed)
    rng = np.random.default_rng(seed + 1)
    rows, columns = (x * torch.tensor(rng.uniform(5, 150, (batch, 1))) for x in (rows, columns))
    rows[:, 0], columns[::2, -1] = 0.0, 0.0
    return cost, rows, columns


def by_pot(name: str, cost: Array, rows: Array, columns: Array) -> Array:
    """Solve one problem by POT alone, to convergence; rows and columns without mass are left out."""
    plan, cells = np.zeros_like(cost), np.ix_(rows > 0, columns > 0)
    cost, rows, columns = cost[cells], rows[rows > 0], columns[columns > 0]
    scale = math.sqrt(rows.sum() * columns.sum())
    scaled = (rows / scale, columns / scale, cost)
    m = 0.6 * min(rows.sum(), columns.sum())
    if name == "exact":
        result = ot.emd(rows, columns, cost)
    elif name == "unbalanced":
        result = scale * ot.unbalanced.sinkhorn_unbalanced(*scaled, 0.1, 1.0, reg_type="kl", stopThr=1e-14)
    elif name == "unbalanced, no entropy":
        result = ot.unbalanced.mm_unbalanced(rows, columns, cost, 1.0, numItermax=1000, stopThr=1e-12)
    elif name == "partial":
        result = ot.partial.partial_wasserstein(rows, columns, cost, m=m)
    else:
        result = ot.partial.entropic_partial_wasserstein(rows, columns, cost, 0.1, m=m, numItermax=2000)
    plan[cells] = result
    return plan


def single_plans(name: str, *tensors: torch.Tensor) -> torch.Tensor:
    plans = [by_pot(name, *(x.numpy() for x in sample)) for sample in zip(*tensors, strict=True)]
    return torch.tensor(np.stack(plans))


@pytest.mark.parametrize("k", [1, 2, 4, 7])
@pytest.mark.parametrize("name", SOLVERS)
def test_equals_pot_called_for_each_problem(name: str, k: int) -> None:
    tensors = problem(k, batch=40 if name.startswith("unbalanced") else 6)  # 40: more than one group of blocks
    torch.testing.assert_close(SOLVERS[name](*tensors), single_plans(name, *tensors), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", UNEQUAL)
def test_equals_pot_for_the_masses_as_printed(name: str) -> None:
    tensors = printed(batch=40 if name.startswith("unbalanced") else 6)
    torch.testing.assert_close(SOLVERS[name](*tensors), single_plans(name, *tensors), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_sides_may_differ_in_length(name: str) -> None:
    tensors = problem(3, 5)
    plan = SOLVERS[name](*tensors)
    assert plan.shape == (6, 3, 5)
    torch.testing.assert_close(plan, single_plans(name, *tensors), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_problem_does_not_depend_on_its_batch(name: str) -> None:
    tensors = problem() if name == "exact" else printed()
    together = SOLVERS[name](*tensors)
    alone = torch.cat([SOLVERS[name](*(x[i : i + 1] for x in tensors)) for i in range(6)])
    tolerance = 1e-7 if name == "unbalanced, no entropy" else 1e-12  # it stops once a group no longer changes
    torch.testing.assert_close(together, alone, atol=tolerance, rtol=1e-9)


def test_exact_meets_both_sides_and_costs_no_more_than_a_linear_program() -> None:
    cost, rows, columns = problem(batch=5, seed=3)
    plan = pot_solvers.exact(cost, rows, columns)
    torch.testing.assert_close(plan.sum(2), rows)
    torch.testing.assert_close(plan.sum(1), columns)
    by_row, by_column = np.kron(np.eye(4), np.ones((1, 4))), np.kron(np.ones((1, 4)), np.eye(4))
    for i in range(5):
        sides = np.concatenate([rows[i].numpy(), columns[i].numpy()])
        best = linprog(cost[i].numpy().ravel(), A_eq=np.vstack([by_row, by_column]), b_eq=sides).fun
        assert float((plan[i] * cost[i]).sum()) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_partial_stays_below_both_sides_and_moves_the_given_mass(epsilon: float | None) -> None:
    cost, rows, columns = printed()
    for mass in (0.1, 0.75, 1.0):
        plan = pot_solvers.partial(cost, rows, columns, mass, epsilon)
        smaller = torch.minimum(rows.sum(1), columns.sum(1))
        torch.testing.assert_close(plan.sum((1, 2)), mass * smaller, rtol=1e-6, atol=0)
        assert (plan.sum(2) <= rows * (1 + 1e-6) + 1e-6).all()
        assert (plan.sum(1) <= columns * (1 + 1e-6) + 1e-6).all()


def test_partial_moves_the_given_mass_at_no_cost() -> None:
    """POT's dummy points cost twice the largest cost: nothing, where all instances are alike."""
    _, rows, columns = problem()
    for cost in (torch.zeros(6, 4, 4), torch.full((6, 4, 4), -1e-7)):
        plan = pot_solvers.partial(cost.double(), rows, columns, 0.5)
        torch.testing.assert_close(plan.sum((1, 2)), torch.full((6,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(("penalty", "epsilon"), [(1.0, 0.1), (0.2, 0.02), (5.0, 0.5), (1.0, None), (0.3, None)])
def test_unbalanced_minimises_what_it_says(penalty: float, epsilon: float | None) -> None:
    """Written out in the logarithms of the plan's cells, and handed to SciPy."""
    cost, rows, columns = (x.numpy() for x in printed(3, 4, seed=5))
    rows, columns = rows + 0.5, columns + 0.5
    plans = pot_solvers.unbalanced(*map(torch.tensor, (cost, rows, columns)), penalty, epsilon).numpy()

    def kl(x: Array, y: Array) -> float:
        return float((x * np.log(np.maximum(x, 1e-300) / y) - x + y).sum())

    for c, r, s, plan in zip(cost, rows, columns, plans, strict=True):

        def value(p: Array, c: Array = c, r: Array = r, s: Array = s) -> float:
            entropy = epsilon * kl(p, np.outer(r, s) / math.sqrt(r.sum() * s.sum())) if epsilon else 0.0
            return float((p * c).sum()) + penalty * (kl(p.sum(1), r) + kl(p.sum(0), s)) + entropy

        best = minimize(lambda x, v=value: v(np.exp(x).reshape(3, 3)), np.log(np.outer(r, s) / s.sum()).ravel())
        assert value(plan) <= best.fun + 1e-5 * abs(best.fun)


@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_unbalanced_has_a_closed_form_for_a_single_pair(epsilon: float | None) -> None:
    cost, rows, columns = problem(1)
    rows, columns = rows * torch.linspace(5, 150, 6)[:, None], columns * torch.linspace(80, 1, 6)[:, None]
    scale, exponent = (rows * columns).sqrt()[..., None], -cost / (2 * 0.7 + (epsilon or 0))
    plan = pot_solvers.unbalanced(cost, rows, columns, 0.7, epsilon)
    torch.testing.assert_close(plan, scale * exponent.exp(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("penalty", [1.0, 5.0])
def test_unbalanced_without_entropy_has_updates_in_proportion_to_its_penalty(penalty: float) -> None:
    """Within 1e-4 of the minimum, though costs that differ by a tenth, as cosines of unrelated embeddings, are hard."""
    cost, rows, columns = problem(batch=3, seed=8)
    cost = 1 + 0.1 * (cost - 1)
    plan = pot_solvers.unbalanced(cost, rows, columns, penalty, None).numpy()

    def value(i: int, p: Array) -> float:
        sides = [(p.sum(1), rows[i].numpy()), (p.sum(0), columns[i].numpy())]
        return float((p * cost[i].numpy()).sum() + penalty * sum((x * np.log(x / y) - x + y).sum() for x, y in sides))

    for i in range(3):
        single = (rows[i].numpy(), columns[i].numpy(), cost[i].numpy())
        best = ot.unbalanced.mm_unbalanced(*single, penalty, numItermax=40_000, stopThr=1e-15)
        assert value(i, plan[i]) <= value(i, best) + 1e-4


def test_exact_uses_few_pairs() -> None:
    assert (pot_solvers.exact(*problem(6, batch=50)) > 0).sum((1, 2)).max() <= 2 * 6 - 1


def test_unbalanced_approaches_the_balanced_plan_with_its_penalty() -> None:
    tensors = problem()
    balanced = sinkhorn(*tensors, 0.1, 5000)
    errors = [float((pot_solvers.unbalanced(*tensors, penalty) - balanced).abs().max()) for penalty in (1, 10, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 < errors[0]


@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_unbalanced_plans_are_proportional_to_the_masses(epsilon: float | None) -> None:
    cost, rows, columns = printed()
    plan = pot_solvers.unbalanced(cost, rows, columns, 1.0, epsilon)
    torch.testing.assert_close(pot_solvers.unbalanced(cost, 30 * rows, 30 * columns, 1.0, epsilon), 30 * plan)


@pytest.mark.parametrize(("penalty", "epsilon"), [(1.0, 0.1), (10.0, 0.1), (0.05, 0.01), (100.0, 0.5)])
def test_updates_suffice(penalty: float, epsilon: float) -> None:
    cost, rows, columns = problem(batch=1)
    plan = pot_solvers.unbalanced(cost, rows, columns, penalty, epsilon).numpy()
    for i in range(1):
        single = (rows[i].numpy(), columns[i].numpy(), cost[i].numpy())
        options = {"reg_type": "kl", "numItermax": 20_000, "stopThr": 1e-15}
        many = ot.unbalanced.sinkhorn_unbalanced(*single, epsilon, penalty, **options)
        np.testing.assert_allclose(plan[i], many, rtol=1e-5)


@pytest.mark.parametrize("name", UNEQUAL)
def test_zero_masses_get_no_plan(name: str) -> None:
    cost, rows, columns = printed()
    rows[1], columns[2], rows[3], columns[3] = 0.0, 0.0, 0.0, 0.0
    plan = SOLVERS[name](cost, rows, columns)
    assert plan.isfinite().all()
    assert plan[1:4].count_nonzero() == 0
    assert plan.float()[:, 0].count_nonzero() == 0
    assert plan.float()[::2, :, -1].count_nonzero() == 0
    untouched = SOLVERS[name](cost[[0, 4, 5]], rows[[0, 4, 5]], columns[[0, 4, 5]])
    torch.testing.assert_close(plan[[0, 4, 5]], untouched, atol=1e-7, rtol=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", UNEQUAL)
def test_extreme_masses_stay_finite_and_quiet(name: str) -> None:
    cost, rows, columns = problem(batch=4)
    scales = torch.tensor([[1e-38, 1e-38], [1e-38, 1e30], [1e30, 1.0], [1e-5, 1e5]], dtype=torch.float64)
    rows, columns = rows * scales[:, :1], columns * scales[:, 1:]
    plan = SOLVERS[name](cost, rows, columns)
    assert plan.isfinite().all()
    assert (plan >= 0).all()
    assert plan[2].sum() > 0


@pytest.mark.parametrize("name", SOLVERS)
def test_numbers_that_are_not_finite_spoil_only_their_own_problem(name: str) -> None:
    cost, rows, columns = problem()
    good = SOLVERS[name](cost, rows, columns)
    cost, rows, columns = cost.clone(), rows.clone(), columns.clone()
    cost[1, 0, 0], rows[2, 1], columns[4, 0] = math.nan, math.nan, math.inf
    plan = SOLVERS[name](cost, rows, columns)
    assert plan[[1, 2, 4]].isnan().all()
    torch.testing.assert_close(plan[[0, 3, 5]], good[[0, 3, 5]], atol=1e-7, rtol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_rows_and_columns_does_not_matter(name: str) -> None:
    cost, rows, columns = problem(5)
    m, n = torch.randperm(5, generator=torch.Generator().manual_seed(1)), torch.arange(4, -1, -1)
    plan = SOLVERS[name](cost[:, m][:, :, n], rows[:, m], columns[:, n])
    torch.testing.assert_close(plan, SOLVERS[name](cost, rows, columns)[:, m][:, :, n], atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("dtype", "wide"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_types_and_gradients(name: str, dtype: torch.dtype, wide: torch.dtype) -> None:
    tensors = [x.to(dtype).requires_grad_() for x in problem()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = SOLVERS[name](*tensors)
    assert plan.dtype == wide
    assert not plan.requires_grad
    torch.testing.assert_close(plan, SOLVERS[name](*(x.detach().double() for x in tensors)).to(wide))


@pytest.mark.parametrize("name", SOLVERS)
def test_runs_on_the_meta_device(name: str) -> None:
    plan = SOLVERS[name](*(x.to("meta") for x in problem(3, 5)))
    assert (plan.device.type, plan.shape) == ("meta", (6, 3, 5))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("solver", ["unbalanced penalty", "unbalanced epsilon", "partial mass", "partial epsilon"])
def test_weights_that_are_not_positive_are_refused(solver, value):
    name, option = solver.split()
    options = {"mass": 0.5} if name == "partial" else {}
    with pytest.raises(ValueError, match=f"{option} = {value}: it must be above 0"):
        getattr(pot_solvers, name)(*problem(3, batch=2), **{**options, option: value})
    with pytest.raises(ValueError, match="more than all"):
        pot_solvers.partial(*problem(3, batch=2), mass=1.5)
