"""Transport plans by POT (Flamary et al., JMLR 2021), for a batch of small problems: exact, unbalanced and partial.

All solvers take costs (b m n) and the masses of rows (b m) and of columns (b n), at least 0, and return plans (b m n)
without gradients, in float32 or wider. They compute in float64. Rows and columns without mass, and whole problems
without any, get plans of zeros there; a problem with a number that is not finite gets a plan of NaN. No problem
influences another one of its batch. Each solver waits for the device, so none works under --cuda-graph.

POT's own batched solvers, `ot.batch`, are for two given marginals only, and the one without entropy is wrong in POT
0.9.7 (https://github.com/PythonOT/POT/issues/842). So unbalanced problems are solved together as the blocks of a larger
one, where the batch is, and the others one by one on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslkit.nn import full_precision, widen

Array = np.ndarray[Any, np.dtype[np.float64]]

RESIDUAL = 1e-8
"""Fraction of the first error in the logarithm of a scaling that may remain when an entropic unbalanced solver ends."""
UPDATES = 1000
"""Updates of the solvers whose rate is not known in advance; without entropy, per unit of the marginal penalty."""
SMALLEST_MASS = 1e-100
"""Mass in place of zero, relative to 1: its share of a plan is zero in float32, and no quotient is 0 / 0."""
SIDE = {"cpu": 128, "cuda": 2048}
"""Rows of a problem that is put together from blocks, by device: more of them waste time on the cells between them."""

Solver = Callable[[Any, Any, Any], Any]
"""Costs and masses of rows and of columns -> a plan, as tensors or as arrays."""


def exact(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Solve min <plan, cost> with given row and column sums, by `ot.emd`, one problem after another on the CPU.

    Columns are scaled to the total of the rows.

    Args:
        cost: Shape (b m n).
        rows: Shape (b m), masses.
        columns: Shape (b n), masses.
    """
    import ot

    def solve(cost: Array, rows: Array, columns: Array) -> Any:
        return ot.emd(rows, columns * (rows.sum() / columns.sum()), cost)

    return _solve(_OneByOne(solve), cost, rows, columns)


def partial(cost: Tensor, rows: Tensor, columns: Tensor, mass: float, epsilon: float | None = None) -> Tensor:
    """Solve min <plan, cost> where row and column sums are at most those given, and the plan has a given total.

    Without entropy, by `ot.partial.partial_wasserstein`; with it, min <plan, cost> - epsilon H(plan) by
    `ot.partial.entropic_partial_wasserstein`, with up to 1000 updates. One problem after another on the CPU. The first
    gets costs plus 1, which changes no plan of a given total: POT would give less than that for costs of 0.

    Args:
        cost: Shape (b m n).
        rows: Shape (b m), masses.
        columns: Shape (b n), masses.
        mass: The plan's total (POT's `m`), as a fraction of the smaller of the two totals.
        epsilon: Weight of the entropy, in units of cost; None without.

    Raises:
        ValueError: The mass is not in (0, 1], or epsilon not above 0.
    """
    import ot

    _refuse_unless_positive("mass", mass)
    _refuse_unless_positive("epsilon", epsilon)
    if mass > 1:
        raise ValueError(f"mass = {mass}: a plan cannot move more than all, which is 1")

    def solve(cost: Array, rows: Array, columns: Array) -> Any:
        total = mass * min(rows.sum(), columns.sum())
        if epsilon is None:
            return ot.partial.partial_wasserstein(rows, columns, cost + 1, m=total)
        options = {"m": total, "numItermax": UPDATES, "stopThr": 1e-12}
        return ot.partial.entropic_partial_wasserstein(rows, columns, cost, epsilon, **options)

    return _solve(_OneByOne(solve), cost, rows, columns)


def unbalanced(
    cost: Tensor, rows: Tensor, columns: Tensor, penalty: float = 1.0, epsilon: float | None = 0.1
) -> Tensor:
    """Solve min <plan, cost> + penalty KL(row sums | rows) + penalty KL(column sums | columns), plus an entropy.

    Here KL(x | y) = sum x log(x / y) - x + y. The entropy is epsilon KL(plan | rows columns' / scale), where the scale
    is the geometric mean of the two totals: the plan is then proportional to the masses. The functions are
    `ot.unbalanced.sinkhorn_unbalanced` (its `reg_m` is the penalty, its `reg_type` "kl") and, without entropy,
    `ot.unbalanced.mm_unbalanced` (its `div` "kl"). POT gets both sides scaled to sum 1, and the plan is multiplied by
    the scale. That gives the same plan: as both penalties are equal, a factor from one side to the other cancels.

    Problems are solved together, on the CPU or a GPU, as the diagonal blocks of a larger one, in which other costs are
    infinite. The updates of such a problem are those of its blocks. With entropy there are as many as their rate of
    convergence requires (`updates`). Without, there are 1000 times the penalty and at least 1000, or fewer once they
    change nothing: what is minimised is then within about 1e-4 of its minimum, for sides of sum 1 and K up to 9, while
    pairs that cost nearly the same may still share mass.

    Args:
        cost: Shape (b m n), in [0, 2] or about that.
        rows: Shape (b m), masses.
        columns: Shape (b n), masses.
        penalty: Weight of both divergences, in units of cost.
        epsilon: Weight of the entropy, in units of cost; None without.

    Raises:
        ValueError: The penalty or epsilon is not above 0.
    """
    import ot

    _refuse_unless_positive("penalty", penalty)
    _refuse_unless_positive("epsilon", epsilon)

    def solve(cost: Any, rows: Any, columns: Any) -> Any:
        if epsilon is None:
            most = math.ceil(UPDATES * max(penalty, 1))
            return ot.unbalanced.mm_unbalanced(rows, columns, cost, penalty, numItermax=most, stopThr=1e-12)
        options = {"reg_type": "kl", "numItermax": updates(penalty, epsilon), "stopThr": 0.0}
        return ot.unbalanced.sinkhorn_unbalanced(rows, columns, cost, epsilon, penalty, **options)

    return _solve(_AsBlocks(solve), cost, rows, columns)


def _refuse_unless_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:  # NaN, too
        raise ValueError(f"{name} = {value}: it must be above 0")


def updates(penalty: float, epsilon: float) -> int:
    """Return how many updates of both sides leave at most `RESIDUAL` of the error of an entropic unbalanced problem.

    An update of one side multiplies the largest error in the logarithm of a scaling by at most
    penalty / (penalty + epsilon) (Chizat et al., Math. Comp. 2018).
    """
    return math.ceil(math.log(RESIDUAL) / (2 * math.log(penalty / (penalty + epsilon))))


def _solve(solver: _OneByOne | _AsBlocks, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Solve the problems that are finite, in float64, on the solver's device for this one."""
    out = widen(cost)
    if cost.is_meta:
        return torch.empty_like(out)
    if cost.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError('solver = "sinkhorn" is the only one that a graph can hold')
    with torch.no_grad(), full_precision(cost.device):
        device = cost.device if cost.device.type in solver.devices else torch.device("cpu")
        problem = [x.detach().to(device, torch.float64) for x in (cost, rows, columns)]
        finite = torch.stack([x.flatten(1).isfinite().all(1) for x in problem]).all(0)
        plan = solver(*(torch.where(finite.view(-1, *[1] * (x.ndim - 1)), x, 0) for x in problem))
        return torch.where(finite.view(-1, 1, 1), plan, math.nan).to(out)


class _OneByOne:
    """Solve problems in a loop, each without its rows and columns of mass zero, and scaled to masses of about 1."""

    devices = ("cpu",)

    def __init__(self, solve: Solver) -> None:
        self.solve = solve

    def __call__(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        plans = np.zeros(cost.shape)
        for plan, c, row, column in zip(plans, cost.numpy(), rows.numpy(), columns.numpy(), strict=True):
            scale = max(row.sum(), column.sum())
            m, n = row > 0, column > 0
            if m.any() and n.any():
                plan[np.ix_(m, n)] = scale * self.solve(c[np.ix_(m, n)], row[m] / scale, column[n] / scale)
        return torch.from_numpy(plans)


class _AsBlocks:
    """Solve problems as the diagonal blocks of a larger one, with both sides scaled to sum 1."""

    devices = tuple(SIDE)

    def __init__(self, solve: Solver) -> None:
        self.solve = solve

    def __call__(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        totals = [x.sum(-1, keepdim=True) for x in (rows, columns)]
        has_mass = (totals[0] > 0) & (totals[1] > 0)
        rows, columns = (
            torch.where(has_mass, x / torch.where(has_mass, total, 1), 1).clamp_min(SMALLEST_MASS)
            for x, total in zip((rows, columns), totals, strict=True)
        )
        size = max(1, SIDE[cost.device.type] // max(cost.shape[1:]))
        groups = zip(*(torch.split(x, size) for x in (cost, rows, columns)), strict=True)
        return torch.cat([self._together(*group) for group in groups]) * (totals[0] * totals[1]).sqrt().unsqueeze(-1)

    def _together(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        b, m, n = cost.shape
        image = torch.arange(b, device=cost.device)
        blocks = cost.new_full((b, m, b, n), math.inf)
        blocks[image, :, image, :] = cost
        problem = blocks.view(b * m, b * n), rows.reshape(-1), columns.reshape(-1)
        if cost.device.type == "cpu":  # POT is faster with arrays
            plan = torch.from_numpy(self.solve(*(x.numpy() for x in problem)))
        else:
            plan = self.solve(*problem)
        return plan.view(b, m, b, n)[image, :, image, :]
