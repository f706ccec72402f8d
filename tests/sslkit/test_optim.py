"""Optimizers against a float64 restatement, torch's own and lightly's; which parameters are left out."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from lightly.utils import lars as lightly_lars
from torch import Tensor, nn

from sslkit.errors import PluginError, RecipeError
from sslkit.foreign.signatures import schema
from sslkit.networks.sharding import shard_optimizer_state
from sslkit.optim import LARS, OPTIMIZERS, make_optimizer, param_groups
from sslkit.planning.options import validate


class Block(nn.Module):
    """A residual block named as torchvision's: the shortcut's batch norm is `downsample.1`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.norm = nn.LayerNorm([4, 2, 2])
        self.gn = nn.GroupNorm(2, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.fc = nn.Linear(4, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))


def _names(module: nn.Module, group: dict[str, Any]) -> set[str]:
    ids = {id(p) for p in group["params"]}
    return {name for name, p in module.named_parameters() if id(p) in ids}


def test_norms_and_biases_are_left_out_also_in_the_shortcut() -> None:
    module = Block()
    decayed, plain = param_groups(module, 1e-6, exclude=True)
    weights = {"conv1.weight", "downsample.0.weight", "fc.weight", "cls_token"}
    weights |= {"attention.in_proj_weight", "attention.out_proj.weight"}
    assert _names(module, decayed) == weights
    assert _names(module, plain) == {name for name, _ in module.named_parameters()} - weights
    assert "downsample.1.weight" in _names(module, plain)
    assert (decayed["weight_decay"], decayed["scaled"]) == (1e-6, True)
    assert (plain["weight_decay"], plain["scaled"]) == (0.0, False)


def test_without_exclusion_there_is_one_group_of_everything() -> None:
    module = Block()
    (group,) = param_groups(module, 1e-4, exclude=False)
    assert len(group["params"]) == len(list(module.parameters()))
    assert group["weight_decay"] == 1e-4


def test_frozen_parameters_are_left_out_and_shared_ones_taken_once() -> None:
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "target": nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    module["target"].requires_grad_(False)
    parameters = [p for group in param_groups(module, 0.1, exclude=True) for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == 3


def test_nothing_to_train_is_an_error_in_words() -> None:
    with pytest.raises(RecipeError, match="no parameter requires gradients"):
        make_optimizer("sgd", nn.ReLU(), 0.1, {})


# ------------------------------------------------------------------------------------------------------- LARS


def _restated(
    weights: np.ndarray,
    grads: list[np.ndarray],
    rates: list[float],
    decay: float,
    momentum: float,
    eta: float,
    scaled: bool,
    clip: bool = False,
) -> list[np.ndarray]:
    """DeepMind's chain: add weight decay, adapt, momentum, learning rate; in float64."""
    p, v, seen = weights.astype(np.float64), np.zeros_like(weights, np.float64), []
    for grad, rate in zip(grads, rates, strict=True):
        u = grad.astype(np.float64) + decay * p
        p_norm, u_norm = np.sqrt((p**2).sum()), np.sqrt((u**2).sum())
        if scaled and p_norm > 0 and u_norm > 0:
            factor = eta * p_norm / u_norm
            u = u * (min(factor / rate, 1.0) if clip else factor)
        v = momentum * v + u
        p = p - rate * v
        seen.append(p)
    return seen


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("decay", "eta"), [(1e-6, 1e-3), (0.1, 0.02)])
def test_lars_agrees_with_the_restatement_at_every_step(decay: float, eta: float, momentum: float, clip: bool) -> None:
    rng = np.random.default_rng(0)
    steps, rates = 60, [4.8 * (1 + k) / 20 for k in range(60)]
    first = [
        rng.normal(size=(5, 7)).astype(np.float32),
        rng.normal(size=7).astype(np.float32),
        np.zeros((4, 3), np.float32),
    ]
    grads = [[rng.normal(size=w.shape).astype(np.float32) for _ in range(steps)] for w in first]
    weights = [nn.Parameter(torch.from_numpy(w.copy())) for w in first]
    groups = [{"params": [weights[0], weights[2]]}, {"params": [weights[1]], "weight_decay": 0.0, "scaled": False}]
    optimizer = LARS(groups, lr=1.0, momentum=momentum, weight_decay=decay, eta=eta, clip=clip)
    expected = [
        _restated(w, g, rates, decay * s, momentum, eta, bool(s), clip)
        for w, g, s in zip(first, grads, (1, 0, 1), strict=True)
    ]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = torch.from_numpy(grad[step])
        optimizer.step()
        if step in (0, 1, 2, steps // 2, steps - 1):
            for weight, values in zip(weights, expected, strict=True):
                np.testing.assert_allclose(weight.detach().numpy(), values[step], rtol=2e-4, atol=2e-5)


def _pair(decay: float, parallel: bool) -> tuple[Tensor, Tensor]:
    """Three steps of ours and of lightly's from the same weights and gradients."""
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [
        LARS([ours], lr=0.5, momentum=0.9, weight_decay=decay, eta=0.01),
        lightly_lars.LARS([theirs], lr=0.5, momentum=0.9, weight_decay=decay, trust_coefficient=0.01, eps=0.0),
    ]
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        noise = torch.randn(6, 4, generator=generator)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = 0.3 * weight.detach() if parallel else noise.clone()
            optimizer.step()
    return ours.detach(), theirs.detach()


def test_lars_agrees_with_lightly_where_gradient_and_weights_are_parallel() -> None:
    """|g + wd p| = |g| + wd |p| there: the only difference between the two conventions."""
    torch.testing.assert_close(*_pair(0.1, parallel=True), rtol=1e-6, atol=1e-6)


def test_lars_is_near_lightly_at_the_decay_in_use_and_differs_at_a_large_one() -> None:
    torch.testing.assert_close(*_pair(1e-6, parallel=False), rtol=1e-5, atol=1e-5)
    ours, theirs = _pair(0.5, parallel=False)
    assert (ours - theirs).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("rate", "norm", "moved"), [(0.5, 1e-3, 5e-4), (0.5, 50.0, 0.2), (1e-3, 50.0, 0.05), (0, 1, 0)]
)
def test_clipped_steps_are_the_shorter_ones_of_sgd_and_of_a_share_of_the_weights(
    rate: float, norm: float, moved: float
) -> None:
    """A weight of norm 2 at eta = 0.1: no step is longer than 0.2."""
    weight = nn.Parameter(torch.tensor([2.0, 0.0]))
    optimizer = LARS([weight], lr=rate, momentum=0.0, eta=0.1, clip=True)
    weight.grad = torch.tensor([0.0, float(norm)])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0, -float(moved)]))


def test_excluded_parameters_get_plain_sgd() -> None:
    ours, theirs = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    optimizers = [
        make_optimizer("lars", ours, 0.3, {}),
        torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=0.9, weight_decay=0.0),
    ]
    x = torch.randn(8, 5)
    for _ in range(4):
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).pow(3).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_saved_state_goes_on_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = make_optimizer(name, module, 0.1, {})
    x = torch.randn(16, 4)

    def advance(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    advance(module, optimizer, 3)
    twin = copy.deepcopy(module)
    other = make_optimizer(name, twin, 0.7, {})
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(module, optimizer, 3)
    advance(twin, other, 3)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), twin.parameters(), strict=True))


def test_lars_leaves_parameters_without_a_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = LARS([used, unused], lr=1.0, weight_decay=0.1)
    used.grad = torch.ones(3, 3)
    optimizer.step()
    assert torch.equal(unused, torch.ones(3, 3))
    assert not torch.equal(used, torch.ones(3, 3))
    assert len(optimizer.state) == 1


def test_lars_step_does_not_change_the_gradient_and_returns_the_loss() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], lr=1.0, weight_decay=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((2, 2), 2.0))


# ---------------------------------------------------------------------------------------------------- options


def test_the_defaults_are_those_of_the_protocols() -> None:
    options = {name: schema(maker)().model_dump() for name, maker in OPTIMIZERS.items()}
    assert options["sgd"] == {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": False, "exclude": False}
    assert options["lars"] == {"momentum": 0.9, "weight_decay": 1e-6, "eta": 1e-3, "exclude": True, "clip": False}
    assert options["adamw"] == {"betas": (0.9, 0.999), "weight_decay": 0.05, "eps": 1e-8, "exclude": True}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"momentum": 1.0}, "momentum = 1.0"),
        ("lars", {"weight_decay": -1e-6}, "weight_decay = -1e-06"),
        ("adamw", {"betas": [0.9]}, "betas"),
        ("lars", {"momentun": 0.9}, "did you mean 'momentum'?"),
    ],
)
def test_invalid_options_are_reported(name: str, options: dict[str, Any], message: str) -> None:
    _, problems = validate(schema(OPTIMIZERS[name]), options, ("optimizer",))
    assert any(message in f"{problem.key} {problem.what}" for problem in problems)


def test_an_unknown_optimizer_and_clashing_options_are_reported() -> None:
    with pytest.raises(PluginError, match=r"unknown optimizer 'larz': did you mean 'lars'\?.*sgd, adamw, lars"):
        make_optimizer("larz", nn.Linear(2, 2), 0.1, {})
    with pytest.raises(RecipeError, match=r'use = "sgd".*[Nn]esterov'):
        make_optimizer("sgd", nn.Linear(2, 2), 0.1, {"nesterov": True, "momentum": 0.0})


def test_sgd_decays_biases_and_norms_by_default() -> None:
    module = Block()
    (group,) = make_optimizer("sgd", module, 0.4, {}).param_groups
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.4, 1e-4, 0.9)
    assert len(group["params"]) == len(list(module.parameters()))


# -------------------------------------------------------------------------------------- what is chosen by device


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}, torch.optim.SGD),
        ("adamw", {"weight_decay": 0.05, "exclude": False}, torch.optim.AdamW),
    ],
)
def test_fused_steps_are_those_of_the_plain_optimizer(name: str, options: dict[str, Any], plain: Any) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4)).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours)
    fused = make_optimizer(name, ours, 0.1, options)
    assert fused.defaults["fused"]
    reference = plain(
        theirs.parameters(), lr=0.1, foreach=False, **{k: v for k, v in options.items() if k != "exclude"}
    )
    for step in range(20):
        x, y = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last), torch.randn(4, 4)
        for module, optimizer in ((ours, fused), (theirs, reference)):
            optimizer.zero_grad()
            (module(x) - y).square().mean().backward()
            optimizer.step()
        if step == 10:  # a checkpoint of shards has other strides, which torch's fused kernels do not look at
            state = fused.state_dict()
            for buffers in state["state"].values():
                buffers |= {name: value.contiguous() for name, value in buffers.items() if isinstance(value, Tensor)}
            fused.load_state_dict(shard_optimizer_state(state, list(ours.parameters())))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_lars_moves_tensors_one_by_one_as_it_moves_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    first = Block()
    modules = [first, copy.deepcopy(first)]
    optimizers = [make_optimizer("lars", module, 0.3, {}) for module in modules]
    grads = [torch.randn_like(p) for p in first.parameters()]
    for module, optimizer in zip(modules, optimizers, strict=True):
        for p, grad in zip(module.parameters(), grads, strict=True):
            p.grad = grad
        optimizer.step()
        monkeypatch.setattr("sslkit.optim._batches", lambda weights: [weights])
    for a, b in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(a, b)
