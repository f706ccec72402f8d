"""Compute convolutions in float32 on maps so small that part of the kernel sees only padding, where torch needs it.

The gradient of that part of the kernel is zero. On CPUs, torch (2.6 to 2.14 at least, through oneDNN) leaves
these entries of a bfloat16 gradient uninitialised where a map is narrower than the stride or much narrower than the
kernel: any number, finite or not. ResNets meet this with images of 16 pixels or less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn


def guard(network: nn.Module) -> None:
    """Let the 2-d convolutions of a network, trained in bfloat16 on a CPU, compute small maps in float32, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.forward = partial(_forward, module, module.forward)  # type: ignore[method-assign]


@contextmanager
def guarded(network: nn.Module) -> Iterator[None]:
    """Guard a network inside the block; remove the guard after it."""
    guard(network)
    try:
        yield
    finally:
        for module in network.modules():
            forward = vars(module).get("forward")
            if isinstance(forward, partial) and forward.func is _forward:
                module.forward = forward.args[1]


def _forward(conv: nn.Conv2d, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not _sees_only_padding(conv, *x.shape[-2:]):
        return forward(x)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(dtype)


def _sees_only_padding(conv: nn.Conv2d, height: int, width: int) -> bool:
    """Return whether any row or column of a kernel lies on padding at every position of the kernel."""
    padding = conv.padding if not isinstance(conv.padding, str) else _padding(conv)
    axes = zip((height, width), conv.kernel_size, conv.stride, padding, conv.dilation, strict=True)
    return any(_never_on_map(*axis) for axis in axes)


def _padding(conv: nn.Conv2d) -> tuple[int, ...]:
    if conv.padding == "valid":
        return (0, 0)
    return tuple(d * (k - 1) // 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))


def _never_on_map(side: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    outputs = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    for start in range(-padding, kernel * dilation - padding, dilation):
        first = max(0, -(start // stride))  # the first position where this row of the kernel is on the map or past it
        if first >= outputs or start + stride * first >= side:
            return True
    return False
