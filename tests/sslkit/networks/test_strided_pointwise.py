"""1 x 1 convolutions with a stride and few channels are trained without writing outside of torch's memory."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from sslkit.networks.strided_pointwise import guard

CASES = [
    {"in_channels": 8, "out_channels": 16, "stride": 2}, {"in_channels": 15, "out_channels": 64, "stride": 2},
    {"in_channels": 3, "out_channels": 8, "stride": 4, "bias": False},
    {"in_channels": 4, "out_channels": 5, "stride": (1, 3)},
    {"in_channels": 32, "out_channels": 32, "stride": 2, "groups": 4},
]  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [1, 7, 12])
@pytest.mark.parametrize("options", CASES)
def test_the_numbers_are_the_same(options, side, layout):
    """On maps that are small enough for torch."""
    torch.manual_seed(0)
    conv = nn.Conv2d(kernel_size=1, **options).to(memory_format=layout)
    guarded = copy.deepcopy(conv)
    guard(guarded)
    assert "forward" in vars(guarded)
    x = torch.randn(2, options["in_channels"], side, side).to(memory_format=layout)
    results = []
    for module in (conv, copy.deepcopy(guarded)):
        image = x.clone().requires_grad_()
        out = module(image)
        out.square().sum().backward()
        results.append([out, image.grad, *(parameter.grad for parameter in module.parameters())])
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain)
        assert other.is_contiguous(memory_format=layout) or side == 1 or other.ndim == 1 or other.shape[-1] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 16, "kernel_size": 1, "stride": 2}, {"in_channels": 8, "kernel_size": 1},
        {"in_channels": 8, "kernel_size": 3, "stride": 2}, {"in_channels": 8, "kernel_size": 1, "stride": 2, "padding": 1},
    ],
)  # fmt: skip
def test_other_convolutions_are_left_alone(options):
    conv = nn.Conv2d(out_channels=4, **options)
    guard(conv)
    assert "forward" not in vars(conv)


CRASHES = """
import torch, sys
from torch import nn
from sslkit.networks.strided_pointwise import guard
for channels, side, stride in ((8, 56, 2), (15, 112, 2), (3, 64, 2), (8, 84, 3), (8, 112, 4)):
    conv = nn.Conv2d(channels, 16, 1, stride=stride).to(memory_format=torch.channels_last)
    guard(conv)
    x = torch.randn(2, channels, side, side).to(memory_format=torch.channels_last)
    for _ in range(3):
        conv(x).sum().backward()
    assert conv.weight.grad.isfinite().all()
"""


def test_large_maps_are_trained():
    """Without the guard, this process dies in the first backward pass (torch 2.14, AVX-512)."""
    done = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_network_on_a_cpu_is_guarded(run, monkeypatch):
    from sslkit.training import setup

    guarded = []
    monkeypatch.setattr(setup.strided_pointwise, "guard", guarded.append)
    run(stop_after=1)
    assert len(guarded) == 1
