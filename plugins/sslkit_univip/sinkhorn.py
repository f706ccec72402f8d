"""Entropic optimal transport, batched, in the log domain."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sslkit.nn import widen

Side = Literal["rows", "columns"]

TINY = 1e-8
"""Mass below which a marginal counts as this much, so that its logarithm is finite (in float32: it is 0 in half)."""


def sinkhorn(
    cost: Tensor, rows: Tensor, columns: Tensor, epsilon: float, iterations: int, last: Side = "columns"
) -> Tensor:
    """Solve min <plan, cost> - epsilon H(plan) with given row and column sums, by Sinkhorn-Knopp.

    Both potentials start at zero. One iteration updates the potential of one side and then that of the other:

        f_m <- log rows_m    - logsumexp_n(-cost_mn / epsilon + g_n)
        g_n <- log columns_n - logsumexp_m(-cost_mn / epsilon + f_m)
        plan_mn = exp(f_m - cost_mn / epsilon + g_n)

    The side updated last is met exactly, the other as well as the iterations allow. Where the totals differ there is no
    plan that meets both: the result then has the total of the side updated last. The last update is a softmax times its
    marginal, so rounding cannot make an element larger than that marginal, whatever the cost. Nothing waits for the
    device: the number of iterations is fixed.

    Args:
        cost: Shape (..., m, n); finite, also when divided by epsilon.
        rows: Shape (..., m), masses, at least 0.
        columns: Shape (..., n), masses, at least 0.
        epsilon: Weight of the entropy, in units of cost, above 0.
        iterations: Updates of each side.
        last: Which side is updated second in every iteration.

    Returns:
        The plan, shape (..., m, n), float32 or wider.
    """
    if last == "rows":
        return sinkhorn(cost.mT, columns, rows, epsilon, iterations).mT
    kernel = -widen(cost) / epsilon
    log_rows, log_columns = (widen(mass).clamp_min(TINY).log() for mass in (rows, columns))
    g = torch.zeros_like(log_columns)
    scaled = kernel
    for _ in range(iterations):
        f = log_rows - torch.logsumexp(kernel + g.unsqueeze(-2), dim=-1)
        scaled = kernel + f.unsqueeze(-1)
        g = log_columns - torch.logsumexp(scaled, dim=-2)
    return widen(columns).unsqueeze(-2) * torch.softmax(scaled, dim=-2)


def marginal_error(plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the share of mass that a plan puts into wrong rows or columns, shape (...): 0 when it meets both."""
    missed = (plan.sum(-1) - rows).abs().sum(-1) + (plan.sum(-2) - columns).abs().sum(-1)
    return missed / (rows.sum(-1) + columns.sum(-1)).clamp_min(TINY)


def entropy(plan: Tensor) -> Tensor:
    """Return the entropy of plans (..., k, k) as a share of the largest, log(k k): shape (...), 0 for k = 1.

    1 is the uniform plan; 0.5 matches one to one with equal masses; less means that few instances hold the mass.
    """
    cells = plan.shape[-1] * plan.shape[-2]
    share = plan / plan.sum((-2, -1), keepdim=True).clamp_min(TINY)
    nats: Tensor = torch.special.entr(share).sum((-2, -1))
    return nats / math.log(max(cells, 2))
