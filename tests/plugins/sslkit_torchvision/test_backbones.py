"""Backbones compared with torchvision's own networks on copied weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from sslkit_torchvision import convnext, resnet, small_resnet, sslkit_backbones, vit

RESNETS = {
    resnet.ResNet18: models.resnet18,
    resnet.ResNet34: models.resnet34,
    resnet.ResNet50: models.resnet50,
    resnet.ResNet101: models.resnet101,
}
OTHERS = {convnext.ConvNeXtTiny: models.convnext_tiny, vit.ViTBase: models.vit_b_16}


def load(ours: nn.Module, theirs: nn.Module) -> set[str]:
    """Load our weights into their network; return the names that ours lacks, and assert that theirs lacks none."""
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    return set(missing)


def test_ids():
    assert [cls.name for cls in sslkit_backbones()] == [
        "resnet18", "resnet34", "resnet50", "resnet101", "small-resnet", "convnext-tiny", "vit-small", "vit-base",
    ]  # fmt: skip
    assert all("Args:" in cls.__doc__ for cls in sslkit_backbones())


@pytest.mark.parametrize(("cls", "build"), [*RESNETS.items(), *OTHERS.items()])
def test_weights_have_torchvisions_names_and_shapes(cls, build):
    with torch.device("meta"):
        ours, theirs = cls(), build()
    missing = {name for name in theirs.state_dict() if name not in ours.state_dict()}
    assert {name.rpartition(".")[0] for name in missing} <= {"fc", "classifier.2", "heads.head"}
    assert len(missing) == 2
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert all(shapes[name] == value.shape for name, value in ours.state_dict().items())


@pytest.mark.parametrize(("cls", "build"), [(resnet.ResNet18, models.resnet18), (resnet.ResNet50, models.resnet50)])
def test_resnet_agrees_with_torchvision(cls, build):
    ours, theirs = cls(), build()
    assert load(ours, theirs) == {"fc.weight", "fc.bias"}
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    rows = ours.train()(x)
    torch.testing.assert_close(rows["features"], theirs.train()(x))
    torch.testing.assert_close(ours.eval()(x)["features"], theirs.eval()(x))
    assert rows["map"].shape == (2, ours.dim, 2, 2)


@pytest.mark.parametrize(("width", "dim", "millions"), [(64, 2048, 23.5), (128, 4096, 94), (256, 8192, 375)])
def test_wide_resnets_have_as_many_weights_as_byols(width, dim, millions):
    """BYOL, table 1: ResNet-50 has 24 M weights, twice as wide 94 M, four times as wide 375 M."""
    with torch.device("meta"):
        net = resnet.ResNet50(width=width)
    assert net.dim == dim
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(("cls", "last"), [(resnet.ResNet18, "bn2"), (resnet.ResNet50, "bn3")])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_narrow_resnets_are_initialised_as_torchvisions(cls, last, stem):
    net = cls(width=16, stem=stem, zero_init_residual=True)
    x = torch.randn(2, 3, 64, 64)
    rows = net(x)
    assert rows["features"].shape == (2, net.dim) == (2, 128 * net.layer1[0].expansion)
    assert rows["map"].shape[2:] == ((2, 2) if stem == "imagenet" else (8, 8))
    assert all(not getattr(block, last).weight.any() for stage in (net.layer1, net.layer4) for block in stage)
    conv = net.layer4[1].conv2
    fan_out = conv.out_channels * 9
    assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_convnext_agrees_with_torchvision():
    ours, theirs = convnext.ConvNeXtTiny(), models.convnext_tiny()
    assert load(ours, theirs) == {"classifier.2.weight", "classifier.2.bias"}
    theirs.classifier[2] = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    rows = ours.eval()(x)
    torch.testing.assert_close(rows["features"], theirs.eval()(x))
    assert rows["map"].shape == (2, 768, 2, 2)


def test_stochastic_depth():
    layers = convnext.ConvNeXtTiny(stochastic_depth=0.3).modules()
    rates = [layer.p for layer in layers if type(layer).__name__ == "StochasticDepth"]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.3)


def test_vit_agrees_with_torchvision_at_its_own_size():
    ours = vit.ViTSmall(image_size=64)
    theirs = models.VisionTransformer(64, 16, 12, 6, 384, 1536)
    assert load(ours, theirs) == {"heads.head.weight", "heads.head.bias"}
    theirs.heads = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    rows = ours.eval()(x)
    torch.testing.assert_close(rows["features"], theirs.eval()(x))
    torch.testing.assert_close(rows["map"].flatten(2).transpose(1, 2), rows["tokens"])
    assert rows["map"].shape == (2, 384, 4, 4)


def test_vit_small_has_the_size_of_deit_small():
    with torch.device("meta"):
        net = vit.ViTSmall()
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == 22_050_664 - 385 * 1000  # DeiT-S of arXiv 2012.12877 (22 M), without its classifier


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (48, 80)])
def test_vit_resizes_its_positions(size):
    net = vit.ViTSmall(image_size=64)
    table = net.encoder.pos_embedding
    grid = table[:, 1:].reshape(1, 4, 4, 384).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (size[0] // 16, size[1] // 16), mode="bicubic", antialias=True)
    positions = net._positions(size[0] // 16, size[1] // 16)
    torch.testing.assert_close(positions[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, -1, 384))
    assert torch.equal(positions[:, :1], table[:, :1])
    assert net(torch.randn(1, 3, *size))["features"].shape == (1, 384)


def test_vit_resizing_keeps_a_plane_a_plane():
    """Positions that rise by one per cell from left to right rise evenly on a finer grid, away from the edges."""
    net = vit.ViTSmall(image_size=128)
    ramp = torch.arange(8.0).repeat(8).view(1, 64, 1).expand(1, 64, 384)
    net.encoder.pos_embedding.data = torch.cat([torch.zeros(1, 1, 384), ramp], 1)
    rise = net._positions(16, 16)[0, 1:].view(16, 16, 384).diff(dim=1)[:, 4:-4]
    torch.testing.assert_close(rise, torch.full_like(rise, 0.5), atol=0.05, rtol=0)


def test_vit_options():
    mean = vit.ViTSmall(image_size=32, patch=8, features="mean").eval()
    rows = mean(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(rows["features"], rows["tokens"].mean(1))
    assert rows["tokens"].shape == (2, 16, 384)
    with pytest.raises(ValueError, match="60 x 64 pixels are not a multiple of patch = 16"):
        vit.ViTSmall()(torch.randn(1, 3, 60, 64))
    with pytest.raises(ValueError, match="image_size = 100 is not a multiple of patch = 16"):
        vit.ViTSmall(image_size=100)


def test_small_stem_keeps_the_resolution():
    net = resnet.ResNet18(stem="small")
    assert net(torch.randn(2, 3, 32, 32))["map"].shape == (2, 512, 4, 4)
    assert resnet.ResNet18()(torch.randn(2, 3, 32, 32))["map"].shape == (2, 512, 1, 1)


def test_inits():
    torch.manual_seed(0)
    plain, fan_in = resnet.ResNet18(), resnet.ResNet18(init="fan-in")
    down = "layer2.0.downsample.0"  # 64 channels in, 128 out, 1 x 1
    assert plain.get_submodule(down).weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.03)
    assert fan_in.get_submodule(down).weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.03)
    assert fan_in.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 49)), rel=0.03)
    assert fan_in.layer1[0].bn2.weight.min() == 1
    assert resnet.ResNet18(zero_init_residual=True).layer1[0].bn2.weight.max() == 0


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (resnet.ResNet18, {"stem": "small"}),
        (small_resnet.SmallResNet, {}),
        (convnext.ConvNeXtTiny, {"stochastic_depth": 0.0}),
        (vit.ViTSmall, {"image_size": 64}),
    ],
)
def test_each_row_alone_trains_every_weight(cls, options):
    net = cls(**options)
    rows = net(torch.randn(2, 3, 32, 32))
    assert set(rows) == set(net.gives)
    for row in rows.values():
        gradients = torch.autograd.grad(
            row.square().sum(), list(net.parameters()), retain_graph=True, allow_unused=True
        )
        assert None not in gradients


@pytest.mark.parametrize("cls", sslkit_backbones())
def test_meta(cls):
    with torch.device("meta"):
        net = cls()
        rows = net(torch.zeros(2, 3, 96, 96))
    assert rows["features"].shape == (2, net.dim)
    assert set(rows) == set(net.gives)
