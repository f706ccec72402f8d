"""Compute transport plans of one batch, in turn by a loop over POT, by POT's batched solver and by ours.

python benchmarks/speed/transport.py --images 256 --k 4 --iterations 50
python benchmarks/speed/transport.py --solvers --images 64 512    the objective's forward pass with each of its solvers
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import numpy as np
import ot
import torch
from ot.batch import solve_batch
from torch import Tensor

from sslkit_univip.instances import InstanceInstance
from sslkit_univip.transport import sinkhorn

EPSILON = 0.1
LOOP, LOOP_NUMPY = "loop over ot.sinkhorn, tensors", "loop over ot.sinkhorn, NumPy arrays"
POT_KERNEL, POT_LOG = "POT's batched solver, kernel domain", "POT's batched solver, log domain"
KERNEL, LOG = "ours, kernel domain", "ours, log domain"
OBJECTIVE = "ours, the objective's: masses and plan"
RATIOS = [
    (LOOP, KERNEL, "a loop over POT on tensors, kernel domain, takes times ours"),
    (LOOP_NUMPY, KERNEL, "a loop over POT on NumPy arrays, kernel domain, times ours"),
    (POT_KERNEL, KERNEL, "POT's batched solver, kernel domain, times ours"),
    (POT_LOG, LOG, "POT's batched solver, log domain, times ours"),
]

PRINTED = {"normalise": False, "floor": 0.0}
OURS = "sinkhorn, ours"
OPTIONS: dict[str, dict[str, Any]] = {
    OURS: {},
    "exact, by POT": {"solver": "exact"},
    "unbalanced, by POT": {"solver": "unbalanced"},
    "unbalanced, by POT, masses as printed": {"solver": "unbalanced", **PRINTED},
    "unbalanced, by POT, no entropy": {"solver": "unbalanced", "entropic": False},
    "partial, by POT": {"solver": "partial"},
    "partial, by POT, masses as printed": {"solver": "partial", **PRINTED},
    "partial, by POT, entropy": {"solver": "partial", "entropic": True},
}
"""Variant of the objective -> its options."""

Solver = Callable[[], Tensor]


class Row(TypedDict):
    """Seconds of one solver: the median of n calls, and the quartiles beside it."""

    what: str
    variant: str
    median_s: float
    low_s: float
    high_s: float
    n: int


def embeddings(images: int, k: int, d: int = 256) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return o and t (images k d), p and z (images 2 d) that are correlated between the networks."""
    draw = torch.Generator().manual_seed(0)
    scene = torch.randn(images, 1, d, generator=draw)
    things = scene + 2 * torch.randn(images, k, d, generator=draw)
    o, t = (things + torch.randn(images, k, d, generator=draw) for _ in range(2))
    p, z = (scene + torch.randn(images, 2, d, generator=draw) for _ in range(2))
    return o, t, p, z


def solvers(images: int, k: int, iterations: int, d: int = 256) -> dict[str, Solver]:
    """Return the solvers; each gives the plans (images k k) of the same problems.

    All run the same number of iterations, in float32, from tensors and to tensors. POT's checks for convergence are
    left as they are, every tenth iteration, with a tolerance of 0 or less so that none stops early. The loop gets
    transposed problems, since `ot.sinkhorn` updates columns first.
    """
    o, t, p, z = embeddings(images, k, d)
    objective = InstanceInstance({"k": k, "v": 2, "d": d}, epsilon=EPSILON, iterations=iterations)
    cosines = torch.nn.functional.cosine_similarity(o.unsqueeze(2), t.unsqueeze(1), dim=-1)
    b, a = objective.masses(o, z), objective.masses(t, p)
    cost = 1 - cosines

    def loop(images: Iterable[tuple[Any, Any, Any]]) -> list[Any]:
        return [
            ot.sinkhorn(c, r, m.T, reg=EPSILON, numItermax=iterations, stopThr=0, warn=False).T for r, c, m in images
        ]

    def loop_numpy() -> Tensor:
        return torch.from_numpy(np.stack(loop(zip(b.numpy(), a.numpy(), cost.numpy(), strict=True))))

    def batched(method: str) -> Tensor:
        solved = solve_batch(cost, EPSILON, b, a, max_iter=iterations, tol=-1, method=method, grad="detach")
        return torch.as_tensor(solved.plan)

    return {
        LOOP: lambda: torch.stack(loop(zip(b, a, cost, strict=True))),
        LOOP_NUMPY: loop_numpy,
        POT_KERNEL: lambda: batched("sinkhorn"),
        POT_LOG: lambda: batched("log_sinkhorn"),
        KERNEL: lambda: sinkhorn(cost, b, a, EPSILON, iterations, cost_range=2.0),
        LOG: lambda: sinkhorn(cost, b, a, EPSILON, iterations),
        OBJECTIVE: lambda: objective.transport(cosines, o, t, p, z).plan,
    }


def disagreement(made: dict[str, Solver]) -> float:
    """Return the largest difference between the plans of the solvers; unless it is rounding, times mean nothing."""
    plans = [solve() for solve in made.values()]
    return max(float((plan - plans[0]).abs().max()) for plan in plans)


def rows(images: int = 256, k: int = 4, iterations: int = 50, rounds: int = 40, loops: int = 5) -> list[Row]:
    """Time every solver once per round, in turn; loops over images only in the first `loops` rounds."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = solvers(images, k, iterations)
        worst = disagreement(made)
        assert worst < 1e-5, f"plans differ by up to {worst}: the solvers do not solve the same problems"
        seen = _in_turn(made, rounds, {LOOP: loops, LOOP_NUMPY: loops})
    what = f"transport, {images} images, K = {k}, {iterations} iterations"
    return [_row(what, name, times) for name, times in seen.items()]


def solver_rows(images: int = 64, k: int = 4, rounds: int = 20, d: int = 256) -> list[Row]:
    """Time a forward pass of instance-instance, with plan and monitors, for each of its solvers."""
    rows, dims = embeddings(images, k, d), {"k": k, "v": 2, "d": d}
    objectives = {name: InstanceInstance(dims, **options) for name, options in OPTIONS.items()}
    lanes = {name: lambda o=objective: o(*rows).terms["loss"] for name, objective in objectives.items()}
    with torch.no_grad():
        for solve in lanes.values():  # the first call imports POT
            assert solve().isfinite()
        seen = _in_turn(lanes, rounds)
    return [_row(f"instance-instance, {images} images, K = {k}", name, times) for name, times in seen.items()]


def _in_turn(lanes: dict[str, Solver], rounds: int, fewer: dict[str, int] | None = None) -> dict[str, list[float]]:
    """Time every function once per round; those in `fewer` only in that many."""
    seen: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, solve in lanes.items():
            if number < (fewer or {}).get(name, rounds):
                began = time.perf_counter()
                solve()
                seen.setdefault(name, []).append(time.perf_counter() - began)
    return seen


def _row(what: str, variant: str, times: list[float]) -> Row:
    low, middle, high = (float(x) for x in np.quantile(times, (0.25, 0.5, 0.75)))
    return {"what": what, "variant": variant, "median_s": middle, "low_s": low, "high_s": high, "n": len(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[256])
    parser.add_argument("--solvers", action="store_true", help="time the objective with each solver")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for images in options.images:
        if options.solvers:
            show(solver_rows(images, options.k, options.rounds))
        else:
            show(rows(images, options.k, options.iterations, options.rounds))


def show(found: list[Row]) -> None:
    """Print ratios, where they were measured, and the table."""
    median = {row["variant"]: row["median_s"] for row in found}
    for slow, fast, words in RATIOS:
        if slow in median:
            print(f"{median[slow] / median[fast]:8.2f}  {words}")
    threads = torch.get_num_threads()
    print(f"\n{found[0]['what']}, {threads} threads, POT {ot.__version__}, torch {torch.__version__}; ms")
    for row in found:
        low, middle, high = (1e3 * row[key] for key in ("low_s", "median_s", "high_s"))
        print(f"{row['variant']:48} {middle:9.3f}  ({low:.3f} to {high:.3f}, n = {row['n']})")


if __name__ == "__main__":
    main()
