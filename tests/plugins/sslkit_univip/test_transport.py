"""The transport plan, compared with POT and with its constraints."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit_univip import transport as module
from sslkit_univip.transport import entropy, marginal_error, sinkhorn, sums_stay_normal

DOMAINS = [None, 2.0]
"""`cost_range`: unknown, which takes logarithms; that of `problem`, which takes plain sums for epsilon >= 0.05."""


def problem(k: int = 4, batch: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return costs in [0, 2] and masses of sum 1, in float64."""
    rng = np.random.default_rng(seed)
    rows, columns = (rng.dirichlet(np.ones(k), batch) for _ in range(2))
    return torch.tensor(rng.uniform(0, 2, (batch, k, k))), torch.tensor(rows), torch.tensor(columns)


@pytest.fixture
def domains(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that records the domain of each solution."""
    domains: list[str] = []
    for name in ("_kernel_domain", "_log_domain"):
        solve = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, n=name, s=solve: (domains.append(n), s(*args))[1])
    return domains


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cost_range", DOMAINS)
@pytest.mark.parametrize(("k", "epsilon"), [(1, 0.1), (2, 0.1), (4, 0.1), (4, 0.5), (7, 0.2)])
def test_agrees_with_pot_at_convergence(
    k: int, epsilon: float, cost_range: float | None, dtype: torch.dtype, domains: list[str]
) -> None:
    cost, rows, columns = problem(k)
    ours = sinkhorn(*(x.to(dtype) for x in (cost, rows, columns)), epsilon, 2000, cost_range=cost_range)
    assert domains == ["_kernel_domain" if cost_range else "_log_domain"]
    assert ours.dtype == dtype
    for plan, c, r, s in zip(ours.numpy(), cost.numpy(), rows.numpy(), columns.numpy(), strict=True):
        theirs = ot.sinkhorn(r, s, c, reg=epsilon, method="sinkhorn_log", numItermax=50_000, stopThr=1e-12)
        np.testing.assert_allclose(plan, theirs, atol=2e-5)


def test_marginals_at_convergence() -> None:
    cost, rows, columns = problem()
    plan = sinkhorn(cost.float(), rows.float(), columns.float(), 0.1, 5000)
    torch.testing.assert_close(plan.sum(-1), rows.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(plan.sum(-2), columns.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cost_range", DOMAINS)
def test_each_iteration_agrees_with_scaling_the_kernel(cost_range: float | None) -> None:
    """The textbook form: K = exp(-cost / epsilon), u = r / (K v), v = c / (K' u)."""
    cost, rows, columns = (x[0].numpy() for x in problem())
    kernel, v = np.exp(-cost / 0.3), np.ones(4)
    for iteration in range(1, 6):
        u = rows / (kernel @ v)
        v = columns / (kernel.T @ u)
        tensors = (torch.tensor(x) for x in (cost, rows, columns))
        ours = sinkhorn(*tensors, 0.3, iteration, cost_range=cost_range)
        np.testing.assert_allclose(ours.numpy(), u[:, None] * kernel * v, rtol=1e-12)


def widest(k: int, iterations: int) -> float:
    """Return the largest spread for which plain sums are allowed in float32, to within 1e-4."""
    low, high = 0.0, 1e3
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if sums_stay_normal(middle, k, iterations) else (low, middle)
    return low


def corners(k: int) -> list[torch.Tensor]:
    """Return all costs (k k) of zeros and ones with all marginals of ones and 1e-8: (problems k k), twice (problems k)."""
    cost = torch.tensor(list(itertools.product([0.0, 1.0], repeat=k * k)), dtype=torch.float64)
    mass = torch.tensor(list(itertools.product([1e-8, 1.0], repeat=k)), dtype=torch.float64)
    i, m, n = (
        x.flatten() for x in torch.meshgrid(*map(torch.arange, (len(cost), len(mass), len(mass))), indexing="ij")
    )
    return [cost[i].reshape(-1, k, k), mass[m], mass[n]]


@pytest.mark.parametrize("iterations", [1, 2, 50])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_plain_sums_are_exact_at_their_widest_spread(k: int, iterations: int, domains: list[str]) -> None:
    cost, rows, columns = corners(k)
    epsilon = 1 / widest(k, iterations)
    exact = sinkhorn(cost, rows, columns, epsilon, iterations)
    plan = sinkhorn(cost.float(), rows.float(), columns.float(), epsilon, iterations, cost_range=1.0)
    assert domains == ["_log_domain", "_kernel_domain"]
    torch.testing.assert_close(plan.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("times", [1.001, 1.5, 1e4])
def test_wider_spreads_take_logarithms(times: float, domains: list[str]) -> None:
    cost, rows, columns = corners(3)
    epsilon = 1 / (widest(3, 20) * times)
    plan = sinkhorn(cost.float(), rows.float(), columns.float(), epsilon, 20, cost_range=1.0)
    assert domains == ["_log_domain"]
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(-2), columns.float())


def test_plain_sums_fail_where_the_bound_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show that the tests above can fail: at twice the widest spread these corners overflow or vanish."""
    cost, rows, columns = (x.float() for x in corners(3))
    monkeypatch.setattr(module, "sums_stay_normal", lambda *_: True)
    plan = sinkhorn(cost, rows, columns, 1 / (2 * widest(3, 50)), 50, cost_range=1.0)
    assert not plan.isfinite().all()


def test_sums_stay_within_the_proven_bound() -> None:
    """Step 3 of the proof, in float64. The corners come within 4 % of the bound, so a smaller one would be wrong."""
    cost, rows, columns = corners(3)
    spread = widest(3, 50)
    kernel = (-spread * (cost - cost.amin(2, keepdim=True))).exp()
    b, a = (x / x.sum(-1, keepdim=True) for x in (rows, columns))
    x, seen = np.exp(spread / 2) / kernel.sum(2), []
    for _ in range(50):
        w = 1 / (kernel.mT @ (b * x).unsqueeze(2)).squeeze(2)
        seen += [x, w]
        x = 1 / (kernel @ (a * w).unsqueeze(2)).squeeze(2)
    largest = float(torch.stack(seen).log().abs().max())
    bound = 1.5 * spread + math.log(3)
    assert 0.96 * bound < largest < bound


def test_bound_for_cosines_and_its_limits() -> None:
    assert sums_stay_normal(2 / 0.0447, 4, 50)
    assert not sums_stay_normal(2 / 0.0446, 4, 50)
    assert not sums_stay_normal(math.inf, 4, 50)
    assert not sums_stay_normal(2 / 0.05, 4, 10_000_000)  # rounding adds up
    assert sums_stay_normal(2 / 0.005, 4, 50, torch.float64)
    assert not sums_stay_normal(2 / 0.004, 4, 50, torch.float64)


@pytest.mark.parametrize("cost_range", DOMAINS)
def test_totals_of_any_size_are_scaled_away(cost_range: float | None) -> None:
    """The textbook's u and v grow by the ratio of the totals, 1e30 here, in every iteration."""
    cost, rows, columns = (x.float() for x in problem())
    plan = sinkhorn(cost, rows, columns, 0.1, 50, cost_range=cost_range)
    other = sinkhorn(cost, rows * 1e-20, columns * 1e10, 0.1, 50, cost_range=cost_range)
    torch.testing.assert_close(other, plan * 1e10, rtol=2e-4, atol=1e3)


def test_gradients_are_those_of_the_iterations_and_take_logarithms(domains: list[str]) -> None:
    cost, rows, columns = (x[:2].requires_grad_() for x in problem(3, 2))
    assert torch.autograd.gradcheck(lambda *x: sinkhorn(*x, 0.2, 5, cost_range=2.0), (cost, rows, columns))
    with torch.no_grad():
        sinkhorn(cost, rows, columns, 0.2, 5, cost_range=2.0)
    assert set(domains[:-1]) == {"_log_domain"}
    assert domains[-1] == "_kernel_domain"


@pytest.mark.parametrize("cost_range", DOMAINS)
def test_tolerance_stops_early_at_a_plan_that_satisfies_it(cost_range: float | None) -> None:
    cost, rows, columns = (x.float() for x in problem())
    full = sinkhorn(cost, rows, 3 * columns, 0.1, 2000, cost_range=cost_range)
    early = sinkhorn(cost, rows, 3 * columns, 0.1, 2000, cost_range=cost_range, tolerance=1e-3)
    error = marginal_error(early, 3 * rows, 3 * columns)
    assert 1e-5 < error.max() <= 1e-3
    assert not torch.equal(early, full)
    fixed = sinkhorn(cost, rows, 3 * columns, 0.1, 30, cost_range=cost_range)
    capped = sinkhorn(cost, rows, 3 * columns, 0.1, 30, cost_range=cost_range, tolerance=1e-12)
    torch.testing.assert_close(capped, fixed)


@pytest.mark.parametrize("cost_range", DOMAINS)
def test_autocast_and_half_precision_masses_change_nothing(cost_range: float | None) -> None:
    cost, rows, columns = (x.bfloat16() for x in problem())
    expected = sinkhorn(cost.float(), rows.float(), columns.float(), 0.1, 50, cost_range=cost_range)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = sinkhorn(cost, rows, columns, 0.1, 50, cost_range=cost_range)
    assert plan.dtype == torch.float32
    assert torch.equal(plan, expected)


@pytest.mark.parametrize("cost_range", DOMAINS)
def test_batches_of_any_shape_and_problems_that_are_not_square(cost_range: float | None) -> None:
    rng = np.random.default_rng(3)
    cost, rows = torch.tensor(rng.uniform(0, 2, (2, 5, 3, 4))), torch.tensor(rng.dirichlet(np.ones(3), (2, 5)))
    shared = torch.tensor(rng.dirichlet(np.ones(4)))
    for last in ("rows", "columns"):
        plan = sinkhorn(cost, rows, shared, 0.1, 20, last, cost_range=cost_range)  # type: ignore[arg-type]
        one = sinkhorn(cost[1, 2], rows[1, 2], shared, 0.1, 20, last)  # type: ignore[arg-type]
        assert plan.shape == cost.shape
        torch.testing.assert_close(plan[1, 2], one)


@pytest.mark.parametrize(("last", "axis"), [("columns", -2), ("rows", -1)])
def test_side_updated_last_is_met_exactly(last: str, axis: int) -> None:
    cost, rows, columns = problem()
    required = columns if last == "columns" else rows
    plan = sinkhorn(cost, rows, 3 * columns, 0.05, 1, last)  # type: ignore[arg-type]
    factor = 3 if last == "columns" else 1
    torch.testing.assert_close(plan.sum(axis), factor * required)


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
def test_finite_and_bounded_for_any_input(seed: int, k: int, scale: float, heavy: float, iterations: int) -> None:
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon = 0.0: the weight"), ({"epsilon": -0.1}, "epsilon = -0.1"),
        ({"epsilon": math.nan}, "epsilon = nan"), ({"epsilon": -math.inf}, "epsilon = -inf"),
        ({"iterations": 0}, "iterations = 0: write a whole number of 1 or more"), ({"iterations": -3}, "iterations = -3"),
        ({"iterations": 1.5}, "iterations = 1.5"), ({"iterations": True}, "iterations = True"),
        ({"epsilon": 1e-40}, "epsilon = 1e-40: costs divided by it exceed float32"), ({"epsilon": 1e-38}, "epsilon = 1e-38"),
        ({"epsilon": 5e-324}, "epsilon = 5e-324"), ({"epsilon": math.inf}, "epsilon = inf"), ({"epsilon": "0.1"}, "epsilon = '0.1'"),
        ({"epsilon": None}, "epsilon = None"), ({"epsilon": True}, "epsilon = True"), ({"epsilon": torch.ones(2)}, "epsilon = tensor"),
        ({"tolerance": math.nan}, "tolerance = nan: write a number of 0 or more"), ({"tolerance": -1e-3}, "tolerance = -0.001"),
        ({"tolerance": "1"}, "tolerance = '1'"), ({"cost_range": -2.0}, "cost_range = -2.0"), ({"cost_range": math.nan}, "cost_range = nan"),
        ({"iterations": "5"}, "iterations = '5'"), ({"iterations": np.float64(5)}, "iterations = np.float64(5.0)"),
        ({"iterations": None}, "iterations = None"), ({"last": "row"}, "last = 'row': write 'rows' or 'columns'"), ({"last": None}, "last = None"),
    ],
)  # fmt: skip
def test_options_that_give_no_plan_are_refused(options, message):
    masses = torch.ones(2, 3)
    with pytest.raises(ValueError, match=re.escape(message)):
        sinkhorn(torch.rand(2, 3, 3), masses, masses, **{"epsilon": 0.1, "iterations": 5, **options})


@pytest.mark.parametrize("number", [np.int64(7), np.uint8(7), np.int32(7)])
def test_numbers_of_numpy_are_numbers(number):
    cost, masses = torch.rand(2, 3, 3), torch.ones(2, 3)
    plan = sinkhorn(cost, masses, masses, np.float32(0.5), number, tolerance=np.float64(0), cost_range=np.float32(1))
    assert torch.equal(plan, sinkhorn(cost, masses, masses, 0.5, 7, tolerance=0.0, cost_range=1.0))


@pytest.mark.parametrize("epsilon", [1e-30, 1e-20, 1e-6])
def test_the_smallest_epsilons_are_finite(epsilon):
    cost = 2 * torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert sinkhorn(cost, torch.ones(4, 5), torch.ones(4, 5), epsilon, 100).isfinite().all()


@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("mass", [-1.0, -1e-6, -math.inf])
def test_negative_masses_are_refused(side, mass):
    masses = {"rows": torch.ones(2, 3), "columns": torch.ones(2, 3)}
    masses[side][1, 2] = mass
    with pytest.raises(ValueError, match=f"{side} has the mass {mass:g}: masses are at least 0"):
        sinkhorn(torch.rand(2, 3, 3), **masses, epsilon=0.1, iterations=5)
