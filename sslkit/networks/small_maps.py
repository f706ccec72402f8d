"""Convolutions over maps so small that a part of the kernel sees padding alone: in float32, where torch needs it.

The gradient of such a kernel's weights is zero there. On CPUs, torch (2.6 to 2.14 at least, by way of oneDNN) leaves
these places of a bfloat16 gradient as they were in memory, where a map is narrower than the stride or much narrower
than the kernel: any number, finite or not. ResNets come to it with images of 16 pixels and fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def guard(network: nn.Module) -> None:
    """Let 2-d convolutions of a network that trains in bfloat16 on a CPU compute small maps in float32, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.forward = partial(_forward, module, module.forward)  # type: ignore[method-assign]


def _forward(conv: nn.Conv2d, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not _sees_padding_alone(conv, *x.shape[-2:]):
        return forward(x)
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(kind)


def _sees_padding_alone(conv: nn.Conv2d, height: int, width: int) -> bool:
    """Say whether any row or column of a kernel lies on padding, wherever the kernel does."""
    padding = conv.padding if not isinstance(conv.padding, str) else _padding(conv)
    places = zip((height, width), conv.kernel_size, conv.stride, padding, conv.dilation, strict=True)
    return any(_unseen(*place) for place in places)


def _padding(conv: nn.Conv2d) -> tuple[int, ...]:
    if conv.padding == "valid":
        return (0, 0)
    return tuple(d * (k - 1) // 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))


def _unseen(side: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    outputs = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    for start in range(-padding, kernel * dilation - padding, dilation):
        place = max(0, -(start // stride))  # the first where this row of the kernel is on the map or behind it
        if place >= outputs or start + stride * place >= side:
            return True
    return False
