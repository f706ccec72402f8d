"""Heads are lightly's modules: the same weights give the same outputs."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from lightly.models.modules import heads as lightly_heads

from sslkit.foreign.signatures import schema
from sslkit.planning.options import validate
from sslkit_lightly import sslkit_heads, sslkit_objectives

HEADS = {cls.name: cls for cls in sslkit_heads()}
DIRECT = {
    "simclr": (lambda: lightly_heads.SimCLRProjectionHead(8, 16, 4), {"out": 4}),
    "moco": (lambda: lightly_heads.MoCoProjectionHead(8, 16, 4, 3, True), {"out": 4, "layers": 3, "batch_norm": True}),
    "barlow-twins": (lambda: lightly_heads.BarlowTwinsProjectionHead(8, 16, 4), {"out": 4}),
    "vicreg": (lambda: lightly_heads.VICRegProjectionHead(8, 16, 4, 2), {"out": 4, "layers": 2}),
    "tico": (lambda: lightly_heads.TiCoProjectionHead(8, 16, 4), {"out": 4}),
    "swav": (lambda: lightly_heads.SwaVProjectionHead(8, 16, 4), {"out": 4}),
    "simsiam": (lambda: lightly_heads.SimSiamProjectionHead(8, 16, 4), {"out": 4}),
    "simsiam-predictor": (lambda: lightly_heads.SimSiamPredictionHead(8, 16, 8), {}),
    "nnclr": (lambda: lightly_heads.NNCLRProjectionHead(8, 16, 4), {"out": 4}),
    "nnclr-predictor": (lambda: lightly_heads.NNCLRPredictionHead(8, 16, 8), {}),
    "mmcr": (lambda: lightly_heads.MMCRProjectionHead(8, 16, 4), {"out": 4}),
    "msn": (lambda: lightly_heads.MSNProjectionHead(8, 16, 4), {"out": 4}),
    "lejepa": (lambda: lightly_heads.LeJEPAProjectionHead(8, 16, 4), {"out": 4}),
    "densecl": (lambda: lightly_heads.DenseCLProjectionHead(8, 16, 4), {"out": 4}),
    "vicregl": (lambda: lightly_heads.VicRegLLocalProjectionHead(8, 16, 4), {"out": 4}),
}


def test_every_head_is_compared():
    assert set(DIRECT) | {"dino"} == set(HEADS)
    assert len(HEADS) == 16


def inputs(head, n=6):
    """Return inputs of a head, and the same with channels last, as lightly expects them."""
    x = torch.randn((n, 8, 3, 2) if head.takes == "map" else (n, 8), generator=torch.Generator().manual_seed(0))
    return x, x.movedim(1, -1)


@pytest.mark.parametrize("name", DIRECT)
def test_head_equals_lightlys(name):
    make, options = DIRECT[name]
    theirs, ours = make(), HEADS[name]({"d": 8}, hidden=16, **options)
    ours.net.load_state_dict(theirs.state_dict())
    x, last = inputs(ours)
    assert torch.equal(ours(x), theirs(last).movedim(-1, 1))


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_dino_head_equals_lightlys(norm_last_layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lightly_heads.DINOProjectionHead(8, 16, 4, 12, norm_last_layer=norm_last_layer)
    ours = HEADS["dino"]({"d": 8}, hidden=16, bottleneck=4, out=12, norm_last_layer=norm_last_layer, freeze_epochs=0)
    ours.layers.load_state_dict(theirs.layers.state_dict())
    with torch.no_grad():
        ours.last.direction.copy_(theirs.last_layer.weight_v)
        if not norm_last_layer:
            theirs.last_layer.weight_g.uniform_(0.5, 2)
            ours.last.length.copy_(theirs.last_layer.weight_g)
    x, _ = inputs(ours)
    one, other = ours(x), theirs(x)
    torch.testing.assert_close(one, other)
    mine, direct = (torch.autograd.grad(y.square().sum(), w)[0] for y, w in
                    ((one, ours.last.direction), (other, theirs.last_layer.weight_v)))  # fmt: skip
    torch.testing.assert_close(mine, direct)


def test_dino_freezes_its_last_layer_in_the_first_epochs_and_can_be_a_target():
    head = HEADS["dino"]({"d": 8}, hidden=16, bottleneck=4, out=12, freeze_epochs=1.0)
    x, _ = inputs(head)

    def has_gradient():
        head.zero_grad()
        head(x).square().sum().backward()
        assert head.layers[0].weight.grad.any()
        return bool(head.last.direction.grad.any())

    assert not has_gradient()
    head.after_step(3, 0.99)
    assert not has_gradient()
    head.after_step(4, 1.0)
    assert has_gradient()
    assert torch.equal(copy.deepcopy(head)(x), head(x))
    other = HEADS["dino"]({"d": 8}, hidden=16, bottleneck=4, out=12)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x), head(x))
    assert other.epoch == 1


def test_dino_freezes_its_last_layer_for_some_steps():
    head = HEADS["dino"]({"d": 8}, hidden=16, bottleneck=4, out=12, freeze_steps=2)
    x, _ = inputs(head)
    moving = []
    for step in range(4):
        head.zero_grad()
        head(x).square().sum().backward()
        moving.append(bool(head.last.direction.grad.any()))
        head.after_step(step + 1, 0.0)
    assert moving == [False, False, True, True]
    other = HEADS["dino"]({"d": 8}, hidden=16, bottleneck=4, out=12, freeze_steps=2)
    other.load_state_dict(head.state_dict())
    assert not other.frozen
    assert "step" not in HEADS["dino"]({"d": 8}, hidden=16, bottleneck=4, out=12).state_dict()


def test_every_option_has_a_default_and_a_line_in_the_docstring():
    for cls in [*sslkit_heads(), *sslkit_objectives()]:
        options, problems = validate(schema(cls), {}, ())
        assert not problems
        assert all(f"    {option}: " in cls.__doc__ for option in options), cls


def test_sizes_by_default_are_the_papers():
    widths = {"simclr": 128, "moco": 128, "barlow-twins": 8192, "vicreg": 8192, "swav": 128, "dino": 65536}
    with torch.device("meta"):
        assert {name: HEADS[name]({"d": 2048}).out_dim for name in widths} == widths
        assert HEADS["simsiam-predictor"]({"d": 2048}).out_dim == 2048
