"""Compute 1 x 1 convolutions with a stride from every n-th pixel, where torch would write outside its memory.

On CPUs, the gradient of such a convolution's weights (torch 2.14 with oneDNN 3.12, float32, channels last) overruns a
buffer if there are fewer than 16 input channels and the map is large: the process dies, or other memory changes.
ResNets of width 8 meet this in their shortcuts at 224 pixels. Here, the pixels that the stride leaves out are dropped
first, which gives the same numbers.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

_ENOUGH_CHANNELS = 16


def guard(network: nn.Module) -> None:
    """Let the convolutions of a network that torch cannot train on a CPU drop pixels first, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _is_at_risk(module):
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _is_at_risk(conv: nn.Conv2d) -> bool:
    is_pointwise = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "valid", "same")
    return is_pointwise and conv.stride != (1, 1) and conv.in_channels // conv.groups < _ENOUGH_CHANNELS


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    rows, columns = conv.stride
    return F.conv2d(x[..., ::rows, ::columns], conv.weight, conv.bias, groups=conv.groups)
