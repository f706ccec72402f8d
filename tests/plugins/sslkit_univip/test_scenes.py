"""Scene-scene and scene-instance, compared with float64 references and lightly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightly.loss import NegativeCosineSimilarity

from sslkit_univip.scenes import SceneInstance, SceneScene


def rows(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape) * 3


def cos(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def single(x: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float32)


def scene_scene(p: np.ndarray[Any, Any], z: np.ndarray[Any, Any]) -> float:
    """Compute both directions of two scenes, written out."""
    return float(np.mean([-cos(p[b, 0], z[b, 1]) - cos(p[b, 1], z[b, 0]) for b in range(len(p))]))


def scene_instance(o: Any, z: Any, weight: Any, bias: Any) -> float:
    fused = [weight @ np.concatenate(list(item)) + bias for item in o]
    return float(np.mean([sum(-cos(i, scene) for scene in scenes) for i, scenes in zip(fused, z, strict=True)]))


@pytest.mark.parametrize("d", [2, 256])
def test_scene_scene_is_the_papers_sum(d: int) -> None:
    p, z = rows(8, 2, d), rows(8, 2, d, seed=1)
    result = SceneScene({"v": 2, "d": d})(single(p), single(z))
    assert result.item() == pytest.approx(scene_scene(p, z), abs=1e-5)


def test_scene_scene_agrees_with_lightly() -> None:
    p, z = single(rows(8, 2, 16)), single(rows(8, 2, 16, seed=1))
    reference = NegativeCosineSimilarity()
    expected = reference(p[:, 0], z[:, 1]) + reference(p[:, 1], z[:, 0])
    torch.testing.assert_close(SceneScene({"v": 2, "d": 16})(p, z), expected)


@pytest.mark.parametrize("v", [3, 5])
def test_more_scenes_are_the_mean_over_pairs_of_scenes(v: int) -> None:
    p, z = rows(3, v, 6), rows(3, v, 6, seed=1)
    pairs = [scene_scene(p[:, [i, j]], z[:, [i, j]]) for i in range(v) for j in range(i)]
    assert SceneScene({"v": v, "d": 6})(single(p), single(z)).item() == pytest.approx(np.mean(pairs), abs=1e-5)


def test_a_scene_is_not_compared_with_itself() -> None:
    p, z = single(rows(2, 2, 4)), single(rows(2, 2, 4, seed=1)).requires_grad_()
    loss = SceneScene({"v": 2, "d": 4})(p[:, :1].expand(-1, 2, -1), z)
    one = SceneScene({"v": 2, "d": 4})(torch.stack([p[:, 0], torch.zeros_like(p[:, 0])], 1), z)
    (gradient,) = torch.autograd.grad(one, z)
    assert gradient[:, 0].abs().max() == 0
    assert loss.isfinite()


def test_one_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="needs two views or more.* got 1"):
        SceneScene({"v": 1, "d": 4})


@pytest.mark.parametrize(("k", "v"), [(4, 2), (1, 2), (7, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_scene_instance_is_the_papers_sum(k: int, v: int, bias: bool) -> None:
    objective = SceneInstance({"v": v, "d": 12, "k": k}, bias=bias)
    weight = objective.fuser.weight.detach().double().numpy()
    offset = objective.fuser.bias.detach().double().numpy() if bias else 0.0
    o, z = rows(5, k, 12), rows(5, v, 12, seed=1)
    result = objective(single(o), single(z))
    assert result.item() == pytest.approx(scene_instance(o, z, weight, offset), abs=1e-5)


def test_scene_instance_scales_with_scenes_as_scene_scene_does() -> None:
    objective = SceneInstance({"v": 5, "d": 6, "k": 2})
    o, z = single(rows(5, 2, 6)), single(rows(5, 1, 6, seed=1))
    torch.testing.assert_close(objective(o, z.expand(-1, 5, -1)), objective(o, z.expand(-1, 2, -1)))


def test_order_of_instances_matters_to_the_fuser() -> None:
    objective = SceneInstance({"v": 2, "d": 6, "k": 3})
    o, z = single(rows(5, 3, 6)), single(rows(5, 2, 6, seed=1))
    assert not torch.allclose(objective(o, z), objective(o.flip(1), z))


def test_squared_distance_is_two_minus_two_cosines() -> None:
    p, z = single(rows(4, 2, 8)), single(rows(4, 2, 8, seed=1))
    dims = {"v": 2, "d": 8, "k": 2}
    torch.testing.assert_close(SceneScene(dims, pair_loss="squared-distance")(p, z), 4 + 2 * SceneScene(dims)(p, z))
    unit_p, unit_z = torch.nn.functional.normalize(p, dim=-1), torch.nn.functional.normalize(z, dim=-1)
    distance = (unit_p - unit_z.flip(1)).square().sum(-1).sum(1).mean()
    torch.testing.assert_close(SceneScene(dims, pair_loss="squared-distance")(p, z), distance)
    fused, plain = SceneInstance(dims, pair_loss="squared-distance"), SceneInstance(dims)
    plain.load_state_dict(fused.state_dict())
    torch.testing.assert_close(fused(p, z), 4 + 2 * plain(p, z))


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("pair_loss", ["negative-cosine", "squared-distance"])
def test_gradients(pair_loss: Any) -> None:
    dims = {"v": 2, "d": 4, "k": 3}
    assert torch.autograd.gradcheck(SceneScene(dims, pair_loss=pair_loss), (double(2, 2, 4), double(2, 2, 4)))
    fused = SceneInstance(dims, pair_loss=pair_loss).double()
    assert torch.autograd.gradcheck(fused, (double(2, 3, 4), double(2, 2, 4)))


def test_float64_rows_stay_float64_with_a_float32_fuser() -> None:
    dims = {"v": 2, "d": 4, "k": 3}
    assert SceneScene(dims)(double(2, 2, 4), double(2, 2, 4)).dtype == torch.float64
    assert SceneInstance(dims)(double(2, 3, 4), double(2, 2, 4)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_even_under_autocast(dtype: torch.dtype) -> None:
    dims = {"v": 2, "d": 64, "k": 4}
    o, p, z = (single(rows(4, n, 64, seed=n)).to(dtype) for n in (4, 2, 2))
    scenes, fused = SceneScene(dims), SceneInstance(dims)
    expected = scenes(p.float(), z.float()), fused(o.float(), z.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = scenes(p, z), fused(o, z)
    for loss, reference in zip(result, expected, strict=True):
        torch.testing.assert_close(loss, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", [SceneScene, SceneInstance])
def test_dead_embeddings_give_zero_not_nan(cls: type[SceneScene | SceneInstance]) -> None:
    x = torch.zeros(3, 2, 5, requires_grad=True)
    loss = cls({"v": 2, "d": 5, "k": 2})(x, torch.zeros(3, 2, 5))
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_perfect_agreement_is_minus_two() -> None:
    x = single(rows(3, 1, 5)).expand(-1, 2, -1)
    assert SceneScene({"v": 2, "d": 5})(x, x).item() == pytest.approx(-2, abs=1e-6)


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        dims = {"v": 2, "d": 5, "k": 2}
        assert SceneInstance(dims)(torch.zeros(3, 2, 5), torch.zeros(3, 2, 5)).shape == ()
        assert SceneScene(dims)(torch.zeros(3, 2, 5), torch.zeros(3, 2, 5)).shape == ()
