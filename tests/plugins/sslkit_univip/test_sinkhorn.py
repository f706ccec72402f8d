"""The transport plan, against POT and against what it must obey."""

from __future__ import annotations

import itertools
import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit_univip.sinkhorn import entropy, marginal_error, sinkhorn


def problem(k: int = 4, batch: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Costs in [0, 2] and masses of sum 1, in float64."""
    rng = np.random.default_rng(seed)
    rows, columns = (rng.dirichlet(np.ones(k), batch) for _ in range(2))
    return torch.tensor(rng.uniform(0, 2, (batch, k, k))), torch.tensor(rows), torch.tensor(columns)


@pytest.mark.parametrize(("k", "epsilon"), [(1, 0.1), (2, 0.1), (4, 0.1), (4, 0.5), (7, 0.2)])
def test_agrees_with_pot_at_convergence(k: int, epsilon: float) -> None:
    cost, rows, columns = problem(k)
    ours = sinkhorn(cost.float(), rows.float(), columns.float(), epsilon, 5000)
    for plan, c, r, s in zip(ours.numpy(), cost.numpy(), rows.numpy(), columns.numpy(), strict=True):
        theirs = ot.sinkhorn(r, s, c, reg=epsilon, method="sinkhorn_log", numItermax=50_000, stopThr=1e-12)
        np.testing.assert_allclose(plan, theirs, atol=2e-5)


def test_marginals_at_convergence() -> None:
    cost, rows, columns = problem()
    plan = sinkhorn(cost.float(), rows.float(), columns.float(), 0.1, 5000)
    torch.testing.assert_close(plan.sum(-1), rows.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(plan.sum(-2), columns.float(), atol=1e-4, rtol=0)


def test_each_iteration_agrees_with_scaling_the_kernel() -> None:
    """The textbook form: K = exp(-cost / epsilon), u = r / (K v), v = c / (K' u)."""
    cost, rows, columns = (x[0].numpy() for x in problem())
    kernel, v = np.exp(-cost / 0.3), np.ones(4)
    for iteration in range(1, 6):
        u = rows / (kernel @ v)
        v = columns / (kernel.T @ u)
        ours = sinkhorn(*(torch.tensor(x) for x in (cost, rows, columns)), 0.3, iteration)
        np.testing.assert_allclose(ours.numpy(), u[:, None] * kernel * v, rtol=1e-12)


@pytest.mark.parametrize(("last", "axis"), [("columns", -2), ("rows", -1)])
def test_side_updated_last_is_met_exactly(last: str, axis: int) -> None:
    cost, rows, columns = problem()
    wanted = columns if last == "columns" else rows
    plan = sinkhorn(cost, rows, 3 * columns, 0.05, 1, last)  # type: ignore[arg-type]
    factor = 3 if last == "columns" else 1
    torch.testing.assert_close(plan.sum(axis), factor * wanted)


def test_rows_last_is_the_transposed_problem() -> None:
    cost, rows, columns = problem()
    torch.testing.assert_close(
        sinkhorn(cost, rows, columns, 0.1, 3, "rows"), sinkhorn(cost.mT, columns, rows, 0.1, 3, "columns").mT
    )


def test_small_epsilon_finds_the_best_assignment() -> None:
    cost, _, _ = problem()
    even = torch.full(cost.shape[:2], 0.25, dtype=cost.dtype)
    plan = sinkhorn(cost, even, even, 0.01, 3000)
    for p, c in zip(plan, cost, strict=True):
        best = min(itertools.permutations(range(4)), key=lambda order, c=c: sum(c[m, n] for m, n in enumerate(order)))
        assert p.argmax(-1).tolist() == list(best)


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 8),
    scale=st.sampled_from([1.0, 1e3, 1e6, 1e30]),
    heavy=st.sampled_from([0.0, 1e-30, 1.0, 1e6]),
    iterations=st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_finite_and_bounded_whatever_comes(seed: int, k: int, scale: float, heavy: float, iterations: int) -> None:
    cost, rows, columns = (x.float() for x in problem(k, 3, seed))
    columns = columns * heavy
    plan = sinkhorn(scale * cost, rows, columns, 0.1, iterations)
    assert plan.isfinite().all()
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(-2), columns, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    cost, rows, columns = (x.to(dtype) for x in problem())
    rows = torch.tensor([1.0, 0, 0, 0], dtype=dtype).expand_as(rows)
    plan = sinkhorn(cost, rows, columns, 0.1, 50)
    assert plan.dtype == torch.float32
    assert plan.isfinite().all()


def test_float64_stays() -> None:
    assert sinkhorn(*problem(), 0.1, 2).dtype == torch.float64


def test_marginal_error_is_the_share_of_misplaced_mass() -> None:
    plan = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    even, one_sided = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    assert marginal_error(plan, even, even).item() == 0
    assert marginal_error(plan, even, one_sided).item() == pytest.approx(0.5)
    assert marginal_error(2 * plan, 2 * even, 2 * one_sided).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (torch.ones(4, 4), 1.0),
        (torch.eye(4), 0.5),
        (torch.eye(4)[[2, 0, 3, 1]] * 7, 0.5),
        (torch.eye(4) * torch.tensor([1.0, 0, 0, 0]), 0.0),
        (torch.ones(1, 1), 0.0),
    ],
)
def test_entropy_of_known_plans(plan: torch.Tensor, expected: float) -> None:
    assert entropy(plan).item() == pytest.approx(expected, abs=1e-6)


def test_entropy_is_normalised_by_the_number_of_cells() -> None:
    plan = torch.tensor([[0.7, 0.1], [0.1, 0.1]])
    expected = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1)) / math.log(4)
    assert entropy(plan).item() == pytest.approx(expected, rel=1e-6)
