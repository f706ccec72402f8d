"""The multilayer perceptron, compared with lightly's heads on copied weights, and its parameter counts."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.models.modules import heads
from torch import nn

from sslkit_heads.mlp import Mlp


def copy_weights(ours: Mlp, theirs: nn.Module) -> None:
    """Copy weights in order: both are sequences of the same layers."""
    own, other = list(ours.state_dict().values()), list(theirs.state_dict().values())
    assert [value.shape for value in own] == [value.shape for value in other]
    for value, source in zip(own, other, strict=True):
        value.copy_(source)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        # lightly omits the bias wherever a batch norm follows; BYOL's own code keeps it, and so does Mlp by default.
        ({"hidden": 24, "out": 7, "bias": False}, lambda: heads.BYOLProjectionHead(10, 24, 7)),
        ({"hidden": 24, "bias": False}, lambda: heads.BYOLPredictionHead(10, 24, 10)),
        ({"hidden": 24, "out": 7}, lambda: _byol()),
        ({"hidden": 24, "out": 7, "norm": "none"}, lambda: heads.MoCoProjectionHead(10, 24, 7)),
        ({"hidden": 24, "out": 7, "layers": 3, "bias": False}, lambda: heads.BarlowTwinsProjectionHead(10, 24, 7)),
        (
            {"hidden": 10, "out": 7, "layers": 3, "bias": False, "last_bias": False, "last_norm": True},
            lambda: _simsiam(),
        ),
    ],
)  # fmt: skip
def test_agrees_with_lightly(options, theirs):
    ours, other = Mlp({"d": 10}, **options), theirs()
    copy_weights(ours, other)
    x = torch.randn(6, 10)
    torch.testing.assert_close(ours(x), other(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(x), other.eval()(x), rtol=0, atol=0)


def _byol() -> nn.Module:
    """BYOL's projector (arXiv 2006.07733, section 3.3)."""
    return nn.Sequential(nn.Linear(10, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 7))


def _simsiam() -> nn.Module:
    """SimSiam's projector (arXiv 2011.10566, section 3): norms after all three layers, the last without scale."""
    return nn.Sequential(
        nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10), nn.ReLU(),
        nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10), nn.ReLU(),
        nn.Linear(10, 7, bias=False), nn.BatchNorm1d(7, affine=False),
    )  # fmt: skip


def test_sizes_of_byol_on_resnet50():
    with torch.device("meta"):
        projector = Mlp({"d": 2048}, out=256)
        predictor = Mlp({"d": projector.out_dim})
        orl = Mlp({"d": 2048}, out=256, last_bias=False)
    count = sum(parameter.numel() for parameter in projector.parameters())
    assert count == (2048 + 1) * 4096 + 2 * 4096 + (4096 + 1) * 256
    assert sum(p.numel() for p in predictor.parameters()) == (256 + 1) * 4096 + 2 * 4096 + (4096 + 1) * 256
    assert sum(p.numel() for p in orl.parameters()) == count - 256
    assert (projector.out_dim, predictor.out_dim) == (256, 256)


def test_one_layer_is_linear():
    head = Mlp({"d": 5}, layers=1, out=3)
    assert [type(layer) for layer in head.net] == [nn.Linear]
    x = torch.randn(4, 5)
    torch.testing.assert_close(head(x), x @ head.net[0].weight.T + head.net[0].bias)


def test_layer_norm_needs_no_batch():
    head = Mlp({"d": 5}, hidden=8, norm="layer", last_norm=True)
    assert head(torch.randn(1, 5)).mean().abs() < 1e-6


def test_kaiming_fan_in():
    torch.manual_seed(0)
    head = Mlp({"d": 600}, hidden=500, out=400, init="kaiming-fan-in")
    first, last = head.net[0], head.net[3]
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.01)
    assert last.weight.std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.01)
    assert not first.bias.any()
    assert not last.bias.any()
