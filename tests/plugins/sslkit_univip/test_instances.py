"""Instance-instance, compared with a float64 reference in numpy and with POT."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit_univip import transport as solver
from sslkit_univip.instances import InstanceInstance, Transport
from sslkit_univip.transport import marginal_error

Array = np.ndarray[Any, np.dtype[np.float64]]
MONITORS = {"plan_entropy", "diagonal_mass", "marginal_error", "cross_cosine"}


def embeddings(k: int = 4, v: int = 2, d: int = 16, b: int = 5, seed: int = 0) -> list[Array]:
    """Return o, t, p, z of scenes whose instances are correlated between the networks."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=(b, 1, d))
    thing = rng.normal(size=(b, k, d))
    instances = [0.5 * scene + thing + 0.5 * rng.normal(size=(b, k, d)) for _ in range(2)]
    scenes = [scene + 0.5 * rng.normal(size=(b, v, d)) for _ in range(2)]
    return [*instances, *scenes]


def tensors(arrays: list[Array], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.tensor(x, dtype=dtype) for x in arrays]


def build(k: int = 4, v: int = 2, d: int = 16, **options: Any) -> InstanceInstance:
    return InstanceInstance({"k": k, "v": v, "d": d}, **options)


def cosines(o: Array, t: Array) -> Array:
    return (o @ t.T) / np.linalg.norm(o, axis=1)[:, None] / np.linalg.norm(t, axis=1)[None]


def reference(
    o: Array, t: Array, p: Array, z: Array, floor: float = 1e-3, normalise: bool = True
) -> tuple[float, Array]:
    """Compute loss and plan of one sample with the defaults, in the multiplicative form of Sinkhorn-Knopp."""
    supply = np.maximum(o @ z.mean(0), 0) + floor
    demand = np.maximum(t @ p.mean(0), 0) + floor
    if normalise:
        supply, demand = supply / supply.sum(), demand / demand.sum()
    kernel, v = np.exp(-(1 - cosines(o, t)) / 0.1), np.ones(len(t))
    for _ in range(50):
        u = supply / (kernel @ v)
        v = demand / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return float(-(plan * cosines(o, t)).sum()), plan


def loss(objective: InstanceInstance, rows: list[torch.Tensor]) -> torch.Tensor:
    return objective(*rows).terms["loss"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("k", "v", "seed"), [(4, 2, 0), (4, 2, 1), (1, 2, 2), (3, 5, 3), (9, 1, 4)])
def test_is_the_papers_sum(k: int, v: int, seed: int) -> None:
    arrays = embeddings(k, v, seed=seed)
    expected = np.mean([reference(*sample)[0] for sample in zip(*arrays, strict=True)])
    assert loss(build(k, v), tensors(arrays)).item() == pytest.approx(expected, abs=1e-5)


def test_printed_form_does_not_normalise() -> None:
    arrays = [x * 2 for x in embeddings(seed=5)]
    expected = np.mean([reference(*s, floor=1e-6, normalise=False)[0] for s in zip(*arrays, strict=True)])
    result = loss(build(normalise=False, floor=1e-6), tensors(arrays))
    assert abs(expected) > 5  # of the order of the squared norms, where the other terms are at most 2
    assert result.item() == pytest.approx(expected, rel=1e-5)


def test_many_iterations_give_the_optimal_plan() -> None:
    o, t, p, z = arrays = embeddings(b=3)
    result = build(iterations=5000).transport(*_transport_rows(arrays))
    for i in range(3):
        plan = ot.sinkhorn(
            result.b[i].numpy(), result.a[i].numpy(), 1 - cosines(o[i], t[i]), reg=0.1, numItermax=50_000, stopThr=1e-12
        )
        np.testing.assert_allclose(result.plan[i].numpy(), plan, atol=1e-6)


def _transport_rows(arrays: list[Array]) -> list[torch.Tensor]:
    o, t = arrays[:2]
    cos = np.stack([cosines(x, y) for x, y in zip(o, t, strict=True)])
    return tensors([cos, *arrays], torch.float64)


def test_rows_belong_to_online_and_columns_to_target() -> None:
    """Online instance 0 agrees with the target's scenes, target instance 1 with the online network's."""
    e = torch.eye(4)
    o, t = torch.stack([e[0], e[2]])[None], torch.stack([e[3], e[1]])[None]
    p, z = e[1].expand(1, 2, -1), e[0].expand(1, 2, -1)
    result = build(2, 2, 4, floor=0.0).transport(torch.zeros(1, 2, 2), o, t, p, z)
    assert result.b.tolist() == [[1, 0]]
    assert result.a.tolist() == [[0, 1]]
    torch.testing.assert_close(result.plan, torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), atol=1e-6, rtol=0)


def test_masses_are_normalised_with_a_floor() -> None:
    o = torch.tensor([[[2.0, 0], [1, 0], [-3, 0]]])
    z = torch.tensor([[[1.0, 0], [3, 0]]])
    weights = torch.tensor([[4.5, 2.5, 0.5]])
    torch.testing.assert_close(build(floor=0.5).masses(o, z), weights / 7.5)
    torch.testing.assert_close(build(floor=0.5, normalise=False).masses(o, z), weights)
    torch.testing.assert_close(build(marginals="uniform").masses(o, z), torch.full((1, 3), 1 / 3))
    torch.testing.assert_close(build(floor=0.0, similarity="cosine").masses(o, z), torch.tensor([[0.5, 0.5, 0]]))


def test_scale_of_the_embeddings_does_not_matter_with_normalised_masses() -> None:
    rows = tensors(embeddings(seed=3), torch.float64)
    scaled = [factor * x for factor, x in zip((30.0, 0.2, 7.0, 11.0), rows, strict=True)]
    exact = build(floor=0.0)
    torch.testing.assert_close(loss(exact, scaled), loss(exact, rows), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss(build(), scaled), loss(build(), rows), rtol=1e-2, atol=0)
    norm_free = build(similarity="cosine")
    torch.testing.assert_close(loss(norm_free, scaled), loss(norm_free, rows))
    printed = build(normalise=False)
    # As printed, the plan has the total of the side updated last: here t . mean(p), so 0.2 * 7 times as much.
    assert float(loss(printed, scaled) / loss(printed, rows)) == pytest.approx(0.2 * 7, rel=0.01)


class Fixed(InstanceInstance):
    """The objective with a constant plan, as the gradient treats it."""

    fixed: Transport

    def transport(self, *rows: Any) -> Transport:
        return self.fixed


@pytest.mark.parametrize("pair_loss", ["negative-cosine", "squared-distance"])
def test_gradients(pair_loss: Any) -> None:
    arrays = embeddings(3, 2, 4, b=2)
    objective = Fixed({"k": 3, "v": 2, "d": 4}, pair_loss=pair_loss)
    objective.fixed = InstanceInstance.transport(objective, *_transport_rows(arrays))
    o, t, p, z = tensors(arrays, torch.float64)
    o.requires_grad_()
    t.requires_grad_()
    assert torch.autograd.gradcheck(lambda o, t: objective(o, t, p, z).terms["loss"], (o, t))


def test_the_plan_carries_no_gradient() -> None:
    rows = [x.requires_grad_() for x in tensors(embeddings(), torch.float64)]
    free = loss(build(), rows)
    gradients = torch.autograd.grad(free, rows, allow_unused=True)
    fixed = Fixed({"k": 4, "v": 2, "d": 16})
    fixed.fixed = build().transport(*_transport_rows(embeddings()))
    expected = torch.autograd.grad(loss(fixed, rows), rows[:2])
    torch.testing.assert_close(gradients[:2], expected)
    assert gradients[2:] == (None, None)


def test_squared_distance() -> None:
    rows = tensors(embeddings())
    torch.testing.assert_close(loss(build(pair_loss="squared-distance"), rows), 2 + 2 * loss(build(), rows))


def test_the_side_updated_last_is_exact() -> None:
    rows = _transport_rows(embeddings())
    by_columns = build(iterations=1).transport(*rows)
    by_rows = build(iterations=1, last_update="rows").transport(*rows)
    torch.testing.assert_close(by_columns.plan.sum(1), by_columns.a)
    torch.testing.assert_close(by_rows.plan.sum(2), by_rows.b)
    assert not torch.allclose(by_columns.plan, by_rows.plan)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("case", ["dead", "opposed", "one-dead", "unequal", "huge", "tiny"])
@pytest.mark.parametrize("k", [1, 4])
def test_loss_and_gradient_stay_finite(case: str, k: int, floor: float, normalise: bool) -> None:
    o, t, p, z = tensors(embeddings(k))
    change = {
        "dead": lambda: (0 * o, 0 * t, 0 * p, 0 * z),
        "opposed": lambda: (-z.mean(1, keepdim=True).expand_as(o), -p.mean(1, keepdim=True).expand_as(t), p, z),
        "one-dead": lambda: (o * (torch.arange(k) > 0)[:, None], t, p, z),
        "unequal": lambda: (1e4 * o, 1e-4 * t, p, z),
        "huge": lambda: (1e8 * o, 1e8 * t, 1e8 * p, 1e8 * z),
        "tiny": lambda: (1e-8 * o, 1e-8 * t, 1e-8 * p, 1e-8 * z),
    }[case]
    rows = [x.detach().clone().requires_grad_() for x in change()]
    outcome = build(k, floor=floor, normalise=normalise)(*rows)
    outcome.terms["loss"].backward()
    assert outcome.terms["loss"].isfinite()
    assert all(x.grad is None or x.grad.isfinite().all() for x in rows)
    assert all(value.isfinite() for value in outcome.monitors.values())


def test_all_zero_masses_become_uniform() -> None:
    o, t, p, z = tensors(embeddings())
    none = build().transport(torch.zeros(5, 4, 4), -o, -t, 0 * p, 0 * z)
    torch.testing.assert_close(none.plan, torch.full((5, 4, 4), 1 / 16))
    torch.testing.assert_close(build(floor=0.0).masses(o, 0 * z), torch.full((5, 4), 0.25))


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), v=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_bounded_and_independent_of_the_order_of_instances(seed: int, k: int, v: int) -> None:
    o, t, p, z = tensors(embeddings(k, v, 8, 2, seed), torch.float64)
    value = loss(build(k, v, 8), [o, t, p, z])
    assert -1 - 1e-9 <= value.item() <= 1 + 1e-9
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(build(k, v, 8), [o[:, order], t, p, z]), value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_even_under_autocast(dtype: torch.dtype) -> None:
    rows = [x.to(dtype) for x in tensors(embeddings(seed=7))]
    expected = loss(build(), [x.float() for x in rows])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(build(), rows)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_float64_stays() -> None:
    outcome = build()(*tensors(embeddings(), torch.float64))
    assert {x.dtype for x in [*outcome.terms.values(), *outcome.monitors.values()]} == {torch.float64}


def test_monitors_distinguish_matched_from_collapsed() -> None:
    distinct = torch.eye(4)[None].repeat(3, 1, 1)
    scene = torch.ones(3, 2, 4)
    sharp = build(4, 2, 4, epsilon=0.02)(distinct, distinct, scene, scene).monitors
    alike = build(4, 2, 4)(scene[:, :1].expand(-1, 4, -1), scene[:, :1].expand(-1, 4, -1), scene, scene).monitors
    assert set(sharp) == set(alike) == MONITORS
    assert sharp["plan_entropy"].item() == pytest.approx(0.5, abs=1e-4)
    assert sharp["diagonal_mass"].item() == pytest.approx(1, abs=1e-4)
    assert sharp["cross_cosine"].item() == pytest.approx(0, abs=1e-6)
    assert alike["plan_entropy"].item() == pytest.approx(1, abs=1e-5)
    assert alike["diagonal_mass"].item() == pytest.approx(0.25, abs=1e-5)
    assert alike["cross_cosine"].item() == pytest.approx(1, abs=1e-5)
    assert max(sharp["marginal_error"].item(), alike["marginal_error"].item()) < 1e-5


def test_marginal_error_falls_with_iterations() -> None:
    rows = tensors(embeddings())
    errors = [build(iterations=n)(*rows).monitors["marginal_error"].item() for n in (1, 10, 100, 1000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-5


def test_tolerance_bounds_the_marginal_error_of_every_image() -> None:
    rows = _transport_rows(embeddings())
    exact, early = (build(iterations=1000, tolerance=tolerance).transport(*rows) for tolerance in (None, 1e-3))
    assert not torch.equal(exact.plan, early.plan)
    assert 1e-6 < marginal_error(early.plan, early.b, early.a).max() <= 1e-3


def test_cosines_are_solved_by_plain_sums_unless_epsilon_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    domains = []
    for name in ("_kernel_domain", "_log_domain"):
        solve = getattr(solver, name)
        monkeypatch.setattr(solver, name, lambda *args, n=name, s=solve: (domains.append(n), s(*args))[1])
    rows = [x.requires_grad_() for x in tensors(embeddings())]
    for epsilon in (0.1, 0.05, 0.04):
        loss(build(epsilon=epsilon), rows).backward()
    assert domains == ["_kernel_domain", "_kernel_domain", "_log_domain"]


def test_monitors_carry_no_gradient() -> None:
    rows = [x.requires_grad_() for x in tensors(embeddings())]
    assert not any(value.requires_grad for value in build()(*rows).monitors.values())


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        outcome = build(tolerance=1e-3)(*(torch.zeros(2, n, 16) for n in (4, 4, 2, 2)))
    assert outcome.terms["loss"].shape == ()


@pytest.mark.parametrize("epsilon", [1e-31, 1e-40, 1e-300])
def test_an_epsilon_that_float32_cannot_divide_by_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon = {epsilon}: costs divided by it exceed float32"):
        build(epsilon=epsilon)
