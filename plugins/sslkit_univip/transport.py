"""Entropic optimal transport, batched: plain sums where they provably stay in range, logarithms elsewhere."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sslkit.nn import widen

Side = Literal["rows", "columns"]

TINY = 1e-8
"""A mass counts as at least this much of the largest beside it, so that its logarithm is finite."""

CHECK_EVERY = 10
"""Iterations from one comparison with the tolerance to the next."""


def sinkhorn(
    cost: Tensor,
    rows: Tensor,
    columns: Tensor,
    epsilon: float,
    iterations: int,
    last: Side = "columns",
    *,
    cost_range: float | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """Solve min <plan, cost> - epsilon H(plan) with given row and column sums, by Sinkhorn-Knopp.

    With masses b of rows and a of columns, both scaled to sum 1, and t = a at first, one iteration is

        s_m <- sum_n exp(-cost_mn / epsilon) a_n / t_n
        t_n <- sum_m exp(-cost_mn / epsilon) b_m / s_m
        plan_mn = b_m exp(-cost_mn / epsilon) a_n / (s_m t_n), times the total of the side updated last

    which are the usual updates of the scalings b / s and a / t, or of potentials that are epsilon times their
    logarithms and start at zero. The side updated last is met exactly, the other as well as the iterations allow. Where
    the totals differ there is no plan that meets both: the result then has the total of the side updated last. The last
    update is a share times its marginal, so rounding cannot make an element larger than that marginal, whatever the
    cost.

    Sums are taken as written (kernel domain) where `sums_stay_normal` proves that nothing is lost by it and no gradient
    is wanted, and as logarithms (log domain) elsewhere, which is finite for every cost, differentiable, and takes three
    to four times as long. The choice reads numbers that are known in advance: it does not wait for the device.

    Args:
        cost: Shape (..., m, n); finite, also when divided by epsilon.
        rows: Shape (..., m), masses, at least 0.
        columns: Shape (..., n), masses, at least 0.
        epsilon: Weight of the entropy, in units of cost, above 0.
        iterations: Updates of each side, at least 1.
        last: Which side is updated second in every iteration.
        cost_range: By how much costs of one problem differ at most, where that is known: 2 for 1 - cosine. Costs that
            break this promise can overflow. None means that it is not known.
        tolerance: Stop as soon as no problem of the batch has more than this share of its mass in wrong rows or
            columns, both sides scaled to sum 1. Looked at every 10 iterations, and then waits for the device; None
            waits for nothing.

    Returns:
        The plan, shape (..., m, n), float32 or wider.
    """
    if last == "rows":
        turned = sinkhorn(cost.mT, columns, rows, epsilon, iterations, cost_range=cost_range, tolerance=tolerance)
        return turned.mT
    rows, columns = widen(rows).expand(cost.shape[:-1]), widen(columns).expand(*cost.shape[:-2], cost.shape[-1])
    # The batch goes last: along it, arithmetic on a few instances is several times as fast as their small products.
    exponent = (-widen(cost) / epsilon).movedim((-2, -1), (0, 1)).contiguous()
    b, a = _normalise(rows).movedim(-1, 0).unsqueeze(1), _normalise(columns).movedim(-1, 0).unsqueeze(0)
    spread = math.inf if cost_range is None else cost_range / epsilon
    plain = sums_stay_normal(spread, max(cost.shape[-2:]), iterations, exponent.dtype)
    tolerance = None if cost.is_meta else tolerance
    if plain and not _needs_gradient(cost, rows, columns):
        share = _kernel_domain(exponent, b, a, iterations, tolerance, spread)
    else:
        share = _log_domain(exponent, b, a, iterations, tolerance)
    return share.movedim((0, 1), (-2, -1)).contiguous() * columns.unsqueeze(-2)


def sums_stay_normal(spread: float, k: int, iterations: int, dtype: torch.dtype = torch.float32) -> bool:
    """Say whether the kernel domain is as good as the log domain: whether its sums stay among the normal numbers.

    Let R be the spread and K_mn = exp((min_n cost_mn - cost_mn) / epsilon), which lies in [exp(-R), 1] and has a 1 in
    each row. An iteration takes x = 1 / s to w = 1 / t = 1 / (K' b x) and that to the next x = 1 / (K a w), where b and
    a sum to 1. The first x is taken as exp(R / 2) / (K 1); the constant changes neither plan nor row sums.

    1. The first x is in exp(R / 2) [1 / k, 1]. With it, each K_mn x_m is in exp(R / 2) [exp(-R) / k, 1], and so is its
       mean over b: the first w is in exp(-R / 2) [1, k exp(R)].
    2. As K, b and a are positive and the totals equal, there are x* and w* that an iteration leaves as they are
       (Sinkhorn, 1964). x*_m / x*_i = sum_n K_in a_n w*_n / sum_n K_mn a_n w*_n <= max_n K_in / K_mn <= exp(R), and
       likewise for w*.
    3. A whole iteration is monotone and homogeneous, both as a map of x and as one of w, so c x* <= x <= d x* holds for
       good once it holds. At the start the best c is x_i / x*_i for some i, and c x*_m >= exp(-R) x_i by 2; the best d
       likewise. So no x is ever below exp(-R) times the least of the first x, or above exp(R) times their largest, and
       no w beyond the same multiples of the first w. By 1, every s and t is within exp(+-L), L = 3 R / 2 + log k.
    4. Rounding makes half an iteration the exact one times a factor within 1 +- 2 (k + 2) u, with u the spacing of
       numbers at 1: the sum, the masses that do not quite sum to 1, the weights K a or K b, the quotient, and 5. By the
       argument of 3 factors are not amplified later, so all of them add at most D = 4 (k + 2) u iterations to L.
    5. A term that underflows is off by at most the least normal number; as none exceeds its sum, none overflows. Beside
       sums of at least exp(-L - D), k such errors are within u if L + D + log k <= log(u / least). That also keeps the
       weights normal, which are at least exp(-R) TINY / k.

    This is 3 R / 2 + 2 log k + D <= log(u / least). R counts one more here, for the rounding of costs and of exp. For
    k = 4 and 50 iterations in float32 it allows R = 44.7; that is epsilon >= 0.0447 where the cost is 1 - cosine.

    Args:
        spread: By how much costs of one problem differ at most, over epsilon; infinite if not known.
        k: The larger of a problem's sides.
        iterations: Updates of each side.
        dtype: What the sums are computed in.
    """
    limits = torch.finfo(dtype)
    drift = 4 * (k + 2) * limits.eps * iterations
    return 1.5 * (spread + 1) + 2 * math.log(k) + drift <= math.log(limits.eps / limits.tiny)


def _kernel_domain(
    exponent: Tensor, b: Tensor, a: Tensor, iterations: int, tolerance: float | None, spread: float
) -> Tensor:
    """Solve for shares of the columns' masses (m n ...), from -cost / epsilon, and masses (m 1 ...) and (1 n ...)."""
    kernel = (exponent - exponent.amax(1, keepdim=True)).exp()
    by_row, by_column = kernel * a, kernel * b
    s = kernel.sum(1, keepdim=True) * math.exp(-spread / 2)
    for done in range(1, iterations):
        t = (by_column / s).sum(0, keepdim=True)
        before, s = s, (by_row / t).sum(1, keepdim=True)
        if tolerance is not None and done % CHECK_EVERY == 0 and _largest_error(b, s / before) <= tolerance:
            break
    share = by_column / s
    return share / share.sum(0, keepdim=True)


def _log_domain(exponent: Tensor, b: Tensor, a: Tensor, iterations: int, tolerance: float | None) -> Tensor:
    """Do the same with the logarithms of s and t."""
    by_row, by_column = exponent + a.log(), exponent + b.log()
    s = _logsumexp(exponent, 1)
    for done in range(1, iterations):
        t = _logsumexp(by_column - s, 0)
        before, s = s, _logsumexp(by_row - t, 1)
        if tolerance is not None and done % CHECK_EVERY == 0 and _largest_error(b, (s - before).exp()) <= tolerance:
            break
    return (by_column - s).softmax(0)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """Do what torch.logsumexp does, keeping the axis, faster: that one looks for infinite numbers as well."""
    largest = x.detach().amax(dim, keepdim=True)
    return (x - largest).exp_().sum(dim, keepdim=True).log() + largest


def _largest_error(b: Tensor, factor: Tensor) -> float:
    """Return the largest `marginal_error` of a batch of problems whose rows hold `factor` times their masses."""
    return float((b * (factor - 1).abs()).sum(0).max() / 2)


def _normalise(masses: Tensor) -> Tensor:
    """Scale masses (..., k) to sum 1, none below `TINY` of the largest; where all are zero, none is preferred."""
    largest = masses.amax(-1, keepdim=True).clamp_min(torch.finfo(masses.dtype).tiny)
    relative = (masses / largest).clamp_min(TINY)
    return relative / relative.sum(-1, keepdim=True)


def _needs_gradient(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


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
