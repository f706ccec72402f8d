"""Batched entropic optimal transport: plain sums where they provably stay in range, logarithms elsewhere."""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sslkit.nn import widen

Side = Literal["rows", "columns"]

TINY = 1e-8
"""Smallest mass as a fraction of the largest of its side; smaller ones are raised, so that logarithms are finite."""

LEAST_EPSILON = 1e-30
"""Smallest weight of the entropy: costs up to a hundred million, divided by it, stay within float32."""

CHECK_EVERY = 10
"""Iterations between two comparisons with the tolerance."""


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

    These are the usual updates of the scalings b / s and a / t, or of potentials that are epsilon times their
    logarithms and start at zero. The side updated last is met exactly, the other as well as the iterations allow. If
    the totals differ, no plan meets both, and the result has the total of the side updated last. The last update is a
    fraction times its marginal, so rounding cannot make an element larger than that marginal, whatever the cost.

    Sums are computed as written (kernel domain) where `sums_stay_normal` proves that this loses nothing and no gradient
    is needed. Elsewhere they are computed as logarithms (log domain), which is finite for every cost, differentiable,
    and takes three to four times as long. The choice depends on numbers known in advance, and waits for no device.

    Args:
        cost: Shape (..., m, n); finite, even when divided by epsilon.
        rows: Shape (..., m), masses, at least 0; checked on the CPU alone.
        columns: Shape (..., n), masses, at least 0; likewise.
        epsilon: Weight of the entropy, in units of cost, at least `LEAST_EPSILON`.
        iterations: Updates of each side, at least 1.
        last: The side that every iteration updates second.
        cost_range: Largest difference between costs of one problem, if known: 2 for 1 - cosine. Costs that differ by
            more can overflow. None if unknown.
        tolerance: Stop as soon as no problem of the batch has more than this fraction of its mass in wrong rows or
            columns, both sides scaled to sum 1. Checked every 10 iterations, and each check waits for the device; None
            never waits.

    Returns:
        The plan, shape (..., m, n), float32 or wider.

    Raises:
        ValueError: An option gives no plan, or a mass is negative.
    """
    check_options(epsilon, iterations, last, tolerance, cost_range)
    _refuse_negative(rows=rows, columns=columns)
    if last == "rows":
        transposed = sinkhorn(cost.mT, columns, rows, epsilon, iterations, cost_range=cost_range, tolerance=tolerance)
        return transposed.mT
    rows, columns = widen(rows).expand(cost.shape[:-1]), widen(columns).expand(*cost.shape[:-2], cost.shape[-1])
    # The batch axis goes last: elementwise arithmetic along it is several times as fast as many small matrix products.
    exponent = (-widen(cost) / epsilon).movedim((-2, -1), (0, 1)).contiguous()
    b, a = _normalise(rows).movedim(-1, 0).unsqueeze(1), _normalise(columns).movedim(-1, 0).unsqueeze(0)
    spread = math.inf if cost_range is None else cost_range / epsilon
    in_logarithms = _needs_gradient(cost, rows, columns)
    share = _share(exponent, b, a, iterations, None if cost.is_meta else tolerance, spread, in_logarithms)
    return share.movedim((0, 1), (-2, -1)).contiguous() * columns.unsqueeze(-2)


def _share(
    exponent: Tensor, b: Tensor, a: Tensor, iterations: int, tolerance: float | None, spread: float, in_logarithms: bool
) -> Tensor:
    """Return fractions of the columns' masses (m n ...), in the domain that suits the costs."""
    plain = sums_stay_normal(spread, max(exponent.shape[:2]), iterations, exponent.dtype)
    if plain and not in_logarithms:
        return _kernel_domain(exponent, b, a, iterations, tolerance, spread)
    return _log_domain(exponent, b, a, iterations, tolerance)


def check_options(
    epsilon: float, iterations: int, last: Side, tolerance: float | None = None, cost_range: float | None = None
) -> None:
    """Refuse what gives a plan that is none: infinite or negative numbers, or masses of one side only.

    Raises:
        ValueError: An option of `sinkhorn` has no such value; the message says what to write.
    """
    if not _is_within(epsilon, 0) or epsilon == math.inf or epsilon == 0:
        raise ValueError(f"epsilon = {epsilon!r}: the weight of the entropy must be a number above 0")
    if epsilon < LEAST_EPSILON:
        raise ValueError(f"epsilon = {epsilon!r}: costs divided by it exceed float32; write {LEAST_EPSILON:g} or more")
    if not _is_count(iterations):
        raise ValueError(f"iterations = {iterations!r}: write a whole number of 1 or more")
    if last not in get_args(Side):
        raise ValueError(f"last = {last!r}: write 'rows' or 'columns'")
    for name, value in (("tolerance", tolerance), ("cost_range", cost_range)):
        if value is not None and not _is_within(value, 0):
            raise ValueError(f"{name} = {value!r}: write a number of 0 or more, or None")


def _is_within(value: Any, least: float) -> bool:
    """Return whether a value is a number of at least `least`; NaN is none."""
    return not isinstance(value, bool) and isinstance(value, Real) and float(value) >= least


def _is_count(value: Any) -> bool:
    """Return whether a value is a whole number of at least 1, of Python or NumPy."""
    with suppress(TypeError):
        return not isinstance(value, bool) and operator.index(value) >= 1
    return False


def _refuse_negative(**sides: Tensor) -> None:
    """Refuse negative masses where looking does not wait for a device. What is not finite gives a plan that is not."""
    for name, masses in sides.items():
        if masses.device.type == "cpu" and bool((masses < 0).any()):
            raise ValueError(f"{name} has the mass {float(masses.min()):g}: masses are at least 0")


def sums_stay_normal(spread: float, k: int, iterations: int, dtype: torch.dtype = torch.float32) -> bool:
    """Return whether the kernel domain is as good as the log domain: whether its sums stay normal numbers.

    Let R be the spread and K_mn = exp((min_n cost_mn - cost_mn) / epsilon), which lies in [exp(-R), 1] and has a 1 in
    each row. An iteration maps x = 1 / s to w = 1 / t = 1 / (K' b x), and w to the next x = 1 / (K a w), where b and a
    sum to 1. The first x is exp(R / 2) / (K 1); the constant changes neither plan nor row sums.

    1. The first x is in exp(R / 2) [1 / k, 1]. With it, each K_mn x_m is in exp(R / 2) [exp(-R) / k, 1], and so is its
       mean over b: the first w is in exp(-R / 2) [1, k exp(R)].
    2. As K, b and a are positive and the totals equal, there are x* and w* that an iteration leaves unchanged
       (Sinkhorn, 1964). x*_m / x*_i = sum_n K_in a_n w*_n / sum_n K_mn a_n w*_n <= max_n K_in / K_mn <= exp(R), and
       likewise for w*.
    3. A whole iteration is monotone and homogeneous, both as a map of x and as one of w, so c x* <= x <= d x* keeps
       holding once it holds. At the start the best c is x_i / x*_i for some i, and c x*_m >= exp(-R) x_i by 2; the best
       d likewise. So no x is ever below exp(-R) times the smallest first x, or above exp(R) times the largest, and no w
       beyond the same multiples of the first w. By 1, every s and t is within exp(+-L), L = 3 R / 2 + log k.
    4. Rounding makes half an iteration the exact one times a factor within 1 +- 2 (k + 2) u, with u the spacing of
       numbers at 1: the sum, the masses that do not quite sum to 1, the weights K a or K b, the quotient, and 5. By the
       argument of 3, factors are not amplified later, so together they add at most D = 4 (k + 2) u iterations to L.
    5. A term that underflows is off by at most the smallest normal number; as no term exceeds its sum, none overflows.
       Relative to sums of at least exp(-L - D), k such errors are within u if L + D + log k <= log(u / smallest). That
       also keeps the weights normal, which are at least exp(-R) TINY / k.

    The condition is 3 R / 2 + 2 log k + D <= log(u / smallest). The code adds 1 to R, for the rounding of costs and of
    exp. For k = 4 and 50 iterations in float32 it allows R = 44.7, that is epsilon >= 0.0447 for a cost of 1 - cosine.

    Args:
        spread: Largest difference between costs of one problem, over epsilon; infinite if unknown.
        k: The longer side of a problem.
        iterations: Updates of each side.
        dtype: Type in which the sums are computed.
    """
    limits = torch.finfo(dtype)
    drift = 4 * (k + 2) * limits.eps * iterations
    return 1.5 * (spread + 1) + 2 * math.log(k) + drift <= math.log(limits.eps / limits.tiny)


def _kernel_domain(
    exponent: Tensor, b: Tensor, a: Tensor, iterations: int, tolerance: float | None, spread: float
) -> Tensor:
    """Return fractions of the columns' masses (m n ...), from -cost / epsilon and masses (m 1 ...) and (1 n ...)."""
    kernel = (exponent - exponent.amax(1, keepdim=True)).exp()
    by_row, by_column = kernel * a, kernel * b
    s = kernel.sum(1, keepdim=True) * math.exp(-spread / 2)
    for iteration in range(1, iterations):
        t = (by_column / s).sum(0, keepdim=True)
        old, s = s, (by_row / t).sum(1, keepdim=True)
        if tolerance is not None and iteration % CHECK_EVERY == 0 and _largest_error(b, s / old) <= tolerance:
            break
    share = by_column / s
    return share / share.sum(0, keepdim=True)


def _log_domain(exponent: Tensor, b: Tensor, a: Tensor, iterations: int, tolerance: float | None) -> Tensor:
    """Do the same as `_kernel_domain` with the logarithms of s and t."""
    by_row, by_column = exponent + a.log(), exponent + b.log()
    s = _logsumexp(exponent, 1)
    for iteration in range(1, iterations):
        t = _logsumexp(by_column - s, 0)
        old, s = s, _logsumexp(by_row - t, 1)
        if tolerance is not None and iteration % CHECK_EVERY == 0 and _largest_error(b, (s - old).exp()) <= tolerance:
            break
    return (by_column - s).softmax(0)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """Compute torch.logsumexp with keepdim, but faster: torch also checks for infinite numbers."""
    largest = x.detach().amax(dim, keepdim=True)
    return (x - largest).exp_().sum(dim, keepdim=True).log() + largest


def _largest_error(b: Tensor, factor: Tensor) -> float:
    """Return the largest `marginal_error` in a batch whose row sums are `factor` times the masses of rows."""
    return float((b * (factor - 1).abs()).sum(0).max() / 2)


def _normalise(masses: Tensor) -> Tensor:
    """Scale masses (..., k) to sum 1, each at least `TINY` times the largest; uniform if all are zero."""
    largest = masses.amax(-1, keepdim=True).clamp_min(torch.finfo(masses.dtype).tiny)
    relative = (masses / largest).clamp_min(TINY)
    return relative / relative.sum(-1, keepdim=True)


def _needs_gradient(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def marginal_error(plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the fraction of mass that a plan puts into wrong rows or columns, shape (...): 0 when it meets both."""
    error = (plan.sum(-1) - rows).abs().sum(-1) + (plan.sum(-2) - columns).abs().sum(-1)
    return error / (rows.sum(-1) + columns.sum(-1)).clamp_min(TINY)


def entropy(plan: Tensor) -> Tensor:
    """Return the entropy of plans (..., k, k) as a fraction of the maximum, log(k k): shape (...), 0 for k = 1.

    1 is the uniform plan; 0.5 matches one to one with equal masses; less means that few instances carry the mass.
    """
    cells = plan.shape[-1] * plan.shape[-2]
    share = plan / plan.sum((-2, -1), keepdim=True).clamp_min(TINY)
    nats: Tensor = torch.special.entr(share).sum((-2, -1))
    return nats / math.log(max(cells, 2))
