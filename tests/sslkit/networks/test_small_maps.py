"""Kernel entries that see only padding get a zero gradient, not uninitialised memory."""

import copy

import pytest
import torch
from torch import nn

from sslkit.networks.small_maps import guard


def gradients(conv: nn.Conv2d, x: torch.Tensor, autocast: bool) -> list[torch.Tensor]:
    """Return the output and all gradients, after filling freed memory with NaN."""
    filled = [torch.full((size,), float("nan")) for size in (64, 256, 1024, 4096, 16384, 65536) for _ in range(8)]
    del filled
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = conv(x)
    out.backward(torch.ones_like(out))
    return [out.detach().float(), conv.weight.grad, x.grad]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("side", "options"),
    [
        (1, {"kernel_size": 3, "stride": 2, "padding": 1}),
        (3, {"kernel_size": 3, "stride": 4, "padding": 1}),
        (2, {"kernel_size": 7, "stride": 1, "padding": 3}),
        (1, {"kernel_size": 5, "stride": 1, "padding": "same"}),
        (1, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 32}),
        (6, {"kernel_size": 3, "stride": 2, "padding": 1}),
    ],
)
def test_small_maps_have_the_gradients_of_float32(side, options, layout):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, **options).to(memory_format=layout)
    conv.weight.data = conv.weight.data.bfloat16().float()
    plain = copy.deepcopy(conv)
    guard(conv)
    assert list(conv.state_dict()) == list(plain.state_dict())
    x = torch.randn(8, 32, side, side).bfloat16().float().to(memory_format=layout)
    expected = gradients(plain, x, autocast=False)
    for _ in range(10):
        conv.zero_grad()
        computed = gradients(copy.deepcopy(conv), x, autocast=True)
        for one, other in zip(computed, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


def test_the_output_has_the_dtype_of_autocast():
    conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)
    guard(conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(2, 4, 1, 1)).dtype == conv(torch.randn(2, 4, 8, 8)).dtype == torch.bfloat16
    assert conv(torch.randn(2, 4, 1, 1)).dtype == torch.float32
