"""Instance-instance with POT's solvers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit_univip import pot_solvers
from sslkit_univip.instances import InstanceInstance
from sslkit_univip.transport import sinkhorn

PRINTED = {"normalise": False, "floor": 0.0}
SOLVERS: dict[str, dict[str, Any]] = {
    "exact": {"solver": "exact"},
    "unbalanced": {"solver": "unbalanced"},
    "unbalanced, printed": {"solver": "unbalanced", **PRINTED},
    "unbalanced, printed, no entropy": {"solver": "unbalanced", "entropic": False, **PRINTED},
    "partial": {"solver": "partial"},
    "partial, printed": {"solver": "partial", **PRINTED},
    "partial, printed, entropy": {"solver": "partial", "entropic": True, **PRINTED},
}
by_solver = pytest.mark.parametrize("options", SOLVERS.values(), ids=SOLVERS)


def rows(k: int = 4, v: int = 2, b: int = 5, seed: int = 0, scale: float = 1.0) -> list[torch.Tensor]:
    """Return o, t, p, z in float64, of scenes whose instances are correlated between the networks."""
    rng = np.random.default_rng(seed)
    scene, thing = rng.normal(size=(b, 1, 16)), rng.normal(size=(b, k, 16))
    instances = [0.5 * scene + thing + 0.5 * rng.normal(size=(b, k, 16)) for _ in range(2)]
    return [torch.tensor(scale * x) for x in (*instances, *(scene + 0.5 * rng.normal(size=(b, v, 16)) for _ in "12"))]


def build(k: int = 4, v: int = 2, **options: Any) -> InstanceInstance:
    return InstanceInstance({"k": k, "v": v, "d": 16}, **options)


def cosines(o: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(o.unsqueeze(2), t.unsqueeze(1), dim=-1)


def reference(options: dict[str, Any], o: torch.Tensor, t: torch.Tensor, p: torch.Tensor, z: torch.Tensor) -> float:
    """Compute the loss of one image in NumPy, with the plan of POT."""
    cos = cosines(o[None], t[None])[0].numpy()
    supply, demand = ((x @ y.mean(0)).clamp_min(0).numpy() for x, y in ((o, z), (t, p)))
    if options.get("normalise", True):
        supply, demand = ((x + 1e-3) / (x + 1e-3).sum() for x in (supply, demand))
    some = np.ix_(supply > 0, demand > 0)
    if not some[0].size or not some[1].size:
        return 0.0
    s, d, cost, cos = supply[supply > 0], demand[demand > 0], 1 - cos[some], cos[some]
    scale, m = np.sqrt(s.sum() * d.sum()), 0.75 * min(s.sum(), d.sum())
    if options["solver"] == "exact":
        plan = ot.emd(s, d, cost)
    elif options["solver"] == "partial" and options.get("entropic"):
        plan = ot.partial.entropic_partial_wasserstein(s, d, cost, 0.1, m=m)
    elif options["solver"] == "partial":
        plan = ot.partial.partial_wasserstein(s, d, cost, m=m)
    elif options.get("entropic", True):
        settings = {"reg_type": "kl", "stopThr": 1e-13}
        plan = scale * ot.unbalanced.sinkhorn_unbalanced(s / scale, d / scale, cost, 0.1, 1.0, **settings)
    else:
        plan = ot.unbalanced.mm_unbalanced(s, d, cost, 1.0, numItermax=1000)
    return float(-(plan * cos).sum())


@by_solver
@pytest.mark.parametrize(("k", "v", "seed"), [(4, 2, 0), (4, 2, 1), (1, 2, 2), (3, 5, 3), (9, 1, 4)])
def test_is_the_papers_sum_with_the_plan_of_pot(options: dict[str, Any], k: int, v: int, seed: int) -> None:
    tensors = rows(k, v, seed=seed)
    expected = np.mean([reference(options, *image) for image in zip(*tensors, strict=True)])
    value = build(k, v, **options)(*tensors).terms["loss"].item()
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_default_is_our_sinkhorn_bit_for_bit() -> None:
    tensors = [x.float() for x in rows()]
    result = build().transport(cosines(*tensors[:2]), *tensors)
    expected = sinkhorn(1 - cosines(*tensors[:2]), result.b, result.a, 0.1, 50, "columns", cost_range=2.0)
    assert torch.equal(result.plan, expected)
    assert torch.equal(build(solver="sinkhorn")(*tensors).terms["loss"], build()(*tensors).terms["loss"])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_masses_as_printed_have_totals_of_the_papers_order(scale: float) -> None:
    """The plan's total lies between the sides' and follows their size, also where they differ several times."""
    tensors = rows(b=200, scale=scale)
    transport = build(**SOLVERS["unbalanced, printed"]).transport(cosines(*tensors[:2]), *tensors)
    totals = torch.stack([transport.b.sum(1), transport.a.sum(1)])
    assert totals.max() > 30 * scale**2
    ratios = (totals[0] / totals[1]).clamp_max(1e3)
    assert ratios.max() > 2
    assert (transport.b == 0).any()
    assert (transport.plan.sum((1, 2)) <= totals.prod(0).sqrt() + 1e-6).all()


@by_solver
def test_gradient_passes_only_through_the_cosines(options: dict[str, Any]) -> None:
    tensors = [x.requires_grad_() for x in rows()]
    objective = build(**options)
    transport = objective.transport(cosines(*tensors[:2]).detach(), *(x.detach() for x in tensors))
    expected = torch.autograd.grad(-(transport.plan * cosines(*tensors[:2])).sum((1, 2)).mean(), tensors[:2])
    gradients = torch.autograd.grad(objective(*tensors).terms["loss"], tensors, allow_unused=True)
    torch.testing.assert_close(gradients[:2], expected)
    assert gradients[2:] == (None, None)
    assert not transport.plan.requires_grad


@by_solver
@pytest.mark.parametrize("case", ["dead", "opposed", "one-dead", "unequal", "huge", "tiny", "alike"])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.filterwarnings("error")
def test_loss_and_gradient_stay_finite(case: str, k: int, options: dict[str, Any]) -> None:
    o, t, p, z = (x.float() for x in rows(k))
    change = {
        "dead": lambda: (0 * o, 0 * t, 0 * p, 0 * z),
        "opposed": lambda: (-z.mean(1, keepdim=True).expand_as(o), -p.mean(1, keepdim=True).expand_as(t), p, z),
        "one-dead": lambda: (o * (torch.arange(k) > 0)[:, None], t, p, z),
        "unequal": lambda: (1e4 * o, 1e-4 * t, p, z),
        "huge": lambda: (1e8 * o, 1e8 * t, 1e8 * p, 1e8 * z),
        "tiny": lambda: (1e-8 * o, 1e-8 * t, 1e-8 * p, 1e-8 * z),
        "alike": lambda: (p[:, :1].expand_as(o), p[:, :1].expand_as(t), p, p),
    }[case]
    tensors = [x.detach().clone().requires_grad_() for x in change()]
    outcome = build(k, **options)(*tensors)
    outcome.terms["loss"].backward()
    assert outcome.terms["loss"].isfinite()
    assert all(x.grad is None or x.grad.isfinite().all() for x in tensors)
    assert all(value.isfinite() for value in outcome.monitors.values())
    if case in ("dead", "opposed") and options.get("normalise") is False:
        assert outcome.terms["loss"].item() == 0  # no mass, no plan


def test_numbers_that_are_not_finite_reach_the_loss() -> None:
    """There, the run stops; POT itself would raise, or change the plans of other images."""
    for options in SOLVERS.values():
        tensors = rows()
        tensors[0][2, 1, 3] = float("nan")
        assert build(**options)(*tensors).terms["loss"].isnan()


@given(seed=st.integers(0, 10_000), k=st.integers(1, 5), name=st.sampled_from(sorted(SOLVERS)))
@settings(max_examples=40, deadline=None)
def test_independent_of_the_order_of_instances(seed: int, k: int, name: str) -> None:
    o, t, p, z = rows(k, b=2, seed=seed)
    objective = build(k, **SOLVERS[name])
    m, n = torch.randperm(k, generator=torch.Generator().manual_seed(seed)), torch.arange(k - 1, -1, -1)
    value = objective(o, t, p, z).terms["loss"]
    torch.testing.assert_close(objective(o[:, m], t[:, n], p, z).terms["loss"], value, atol=1e-5, rtol=1e-5)


@by_solver
def test_an_image_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    tensors, objective = rows(b=40), build(**options)
    alone = torch.stack([objective(*(x[i : i + 1] for x in tensors)).terms["loss"] for i in range(40)])
    torch.testing.assert_close(objective(*tensors).terms["loss"], alone.mean(), atol=1e-9, rtol=1e-7)


@by_solver
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_wider_even_under_autocast(options: dict[str, Any], dtype: torch.dtype) -> None:
    tensors = [x.to(dtype) for x in rows(seed=7)]
    expected = build(**options)(*(x.float() for x in tensors)).terms["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = build(**options)(*tensors).terms["loss"]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@by_solver
def test_monitors_measure_what_the_plan_leaves(options: dict[str, Any]) -> None:
    tensors, objective = rows(b=20), build(**options)
    monitors = objective(*tensors).monitors
    plan, b, a = objective.transport(cosines(*tensors[:2]), *tensors)
    left = ((plan.sum(2) - b).abs().sum(1) + (plan.sum(1) - a).abs().sum(1)) / (b.sum(1) + a.sum(1))
    assert monitors["marginal_error"].item() == pytest.approx(left.mean().item())
    moved = plan.sum((1, 2)) / torch.minimum(b.sum(1), a.sum(1))
    if options["solver"] == "exact":
        assert "transported_mass" not in monitors
        assert monitors["marginal_error"] < 1e-6
    else:
        assert monitors["transported_mass"].item() == pytest.approx(moved.mean().item())
    if options["solver"] == "partial":
        assert monitors["transported_mass"].item() == pytest.approx(0.75, rel=1e-5)


@by_solver
def test_runs_on_the_meta_device(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        outcome = build(**options)(*(torch.zeros(2, n, 16) for n in (4, 4, 2, 2)))
    assert outcome.terms["loss"].shape == ()


def test_pot_is_imported_by_its_own_solvers_only() -> None:
    code = (
        "import sys, torch; from sslkit_univip import InstanceInstance as I;"
        "rows = [torch.ones(2, n, 8) for n in (4, 4, 2, 2)]; dims = {'k': 4, 'v': 2, 'd': 8};"
        "seen = []; [(I(dims, solver=s)(*rows), seen.append('ot' in sys.modules)) for s in ('sinkhorn', 'exact')];"
        "print(seen)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, True]"


def test_the_solver_gets_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    for name in ("unbalanced", "partial"):
        monkeypatch.setattr(pot_solvers, name, lambda cost, b, a, *options: (calls.append(options), cost)[1])
    for options in (
        {"solver": "unbalanced", "marginal_penalty": 3.0, "epsilon": 0.2},
        {"solver": "unbalanced", "marginal_penalty": 3.0, "entropic": False},
        {"solver": "partial", "mass": 0.3},
        {"solver": "partial", "entropic": True, "epsilon": 0.2},
    ):
        build(**options)(*rows())
    assert calls == [(3.0, 0.2), (3.0, None), (0.3, None), (0.75, 0.2)]
