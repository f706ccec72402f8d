"""The small residual network: its size, its shape, and its block compared with one written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sslkit_torchvision.small_resnet import SmallResNet


def test_size_and_map():
    net = SmallResNet()
    assert sum(parameter.numel() for parameter in net.parameters()) == 832_416
    rows = net(torch.randn(2, 3, 32, 32))
    assert rows["map"].shape == (2, 256, 8, 8)
    torch.testing.assert_close(rows["features"], rows["map"].mean((2, 3)))
    assert net(torch.randn(2, 3, 48, 64))["map"].shape == (2, 256, 12, 16)


def test_widths_are_those_of_the_stages():
    net = SmallResNet(widths=(16, 24, 40))
    assert net.dim == 40
    assert [stage[0].conv2.out_channels for stage in (net.layer1, net.layer2, net.layer3)] == [16, 24, 40]
    assert net(torch.randn(2, 3, 32, 32))["features"].shape == (2, 40)


def norm(net, prefix, x):
    state = net.state_dict()
    names = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{prefix}.{name}"] for name in names))


def test_a_forward_pass_written_out():
    net = SmallResNet(widths=(8, 12, 20)).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    weight = net.state_dict()
    image = torch.randn(2, 3, 32, 32)
    x = F.relu(norm(net, "bn1", F.conv2d(image, weight["conv1.weight"], stride=2, padding=1)))
    for stage, stride in (("layer1", 1), ("layer2", 2), ("layer3", 1)):
        block = f"{stage}.0"
        y = F.relu(norm(net, f"{block}.bn1", F.conv2d(x, weight[f"{block}.conv1.weight"], stride=stride, padding=1)))
        y = norm(net, f"{block}.bn2", F.conv2d(y, weight[f"{block}.conv2.weight"], padding=1))
        if f"{block}.downsample.0.weight" in weight:
            x = norm(net, f"{block}.downsample.1", F.conv2d(x, weight[f"{block}.downsample.0.weight"], stride=stride))
        x = F.relu(x + y)
    torch.testing.assert_close(net(image)["map"], x)


def test_convolutions_start_with_the_variance_of_he_et_al():
    torch.manual_seed(0)
    conv = SmallResNet().layer3[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_residual_branches_can_start_at_zero():
    net = SmallResNet(zero_init_residual=True)
    assert not any(stage[0].bn2.weight.any() for stage in (net.layer1, net.layer2, net.layer3))
    assert SmallResNet().layer1[0].bn2.weight.all()
