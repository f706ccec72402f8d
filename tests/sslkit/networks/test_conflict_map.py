"""The conflict map against gradients worked out by hand."""

import json
import math

import pytest
import torch
from torch import nn

from sslkit.networks.conflict_map import ObjectiveLoss, conflict_map


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def losses_of(layer, x, **functions):
    y = layer(x)
    return {name: ObjectiveLoss(function(y), 1.5) for name, function in functions.items()}


def test_gradient_norms_and_cosines_match_a_calculation_by_hand():
    """With y = W x and a loss c . y, the gradient of W is the outer product of c and x, and that of b is c."""
    layer, x = nn.Linear(3, 2), torch.tensor([1.0, 2, 2])
    c = {"a": torch.tensor([3.0, 4]), "b": torch.tensor([-4.0, 3]), "c": torch.tensor([-3.0, -4])}
    losses = losses_of(layer, x, **{name: lambda y, row=row: 0.5 * (row * y).sum() for name, row in c.items()})
    values = conflict_map(losses, list(layer.parameters()))
    assert [values[f"{name}.gradient_norm"] for name in "abc"] == pytest.approx([0.5 * 5 * math.sqrt(10)] * 3)
    assert values["conflict.a.b"] == pytest.approx(0, abs=1e-6)
    assert values["conflict.a.c"] == pytest.approx(-1)
    assert values["conflict.b.c"] == pytest.approx(0, abs=1e-6)
    assert all(values[f"{name}.forward_ms"] == 1.5 and values[f"{name}.backward_ms"] > 0 for name in "abc")
    assert all(p.grad is None for p in layer.parameters())


def test_gradients_of_objectives_add_up_to_the_gradient_of_the_loss():
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    functions = {"a": lambda y: y.square().mean(), "b": lambda y: 3 * y.sin().mean()}
    losses = losses_of(net, noise(4, 5), **functions)
    values = conflict_map(losses, list(net.parameters()), scale=256.0)
    sum(item.loss for item in losses.values()).backward()
    whole = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in net.parameters()])).item()
    a, b = values["a.gradient_norm"], values["b.gradient_norm"]
    assert math.sqrt(a * a + b * b + 2 * a * b * values["conflict.a.b"]) == pytest.approx(whole, rel=1e-5)


def test_an_objective_that_does_not_reach_the_backbone_has_norm_zero_and_no_cosine():
    layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    x = noise(4, 3)
    near, far = layer(x).square().sum(), other(x).square().sum()
    parts = {"near": near, "far": far, "fixed": torch.tensor(1.0), "flat": 0 * near}
    values = conflict_map({name: ObjectiveLoss(loss, 0.0) for name, loss in parts.items()}, [*layer.parameters()])
    assert values["near.gradient_norm"] > 0
    assert values["far.gradient_norm"] == values["fixed.gradient_norm"] == values["flat.gradient_norm"] == 0
    assert not [name for name in values if name.startswith("conflict.")]


def test_a_backbone_that_is_not_trained_has_no_gradients():
    layer = nn.Linear(3, 2).requires_grad_(False)
    values = conflict_map({"a": ObjectiveLoss(layer(noise(4, 3)).sum(), 0.0)}, list(layer.parameters()))
    assert values["a.gradient_norm"] == 0
    json.dumps(values, allow_nan=False)


def test_vectors_are_averaged_over_ranks_before_they_are_compared():
    layer = nn.Linear(3, 2)
    losses = losses_of(layer, noise(3), a=lambda y: y[0], b=lambda y: y[1])
    values = conflict_map(losses, list(layer.parameters()), mean=torch.ones_like)
    assert values["conflict.a.b"] == pytest.approx(1)
    assert values["a.gradient_norm"] == pytest.approx(math.sqrt(8))
