"""Update the target network: an exponential moving average of the online one, in one fused call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def ema_update(target: Sequence[Tensor], online: Sequence[Tensor], momentum: float) -> None:
    """Move every target tensor towards its online tensor, in place: target <- m target + (1 - m) online.

    Computed as target + (1 - m) (online - target): the same up to rounding, and exact if both are equal. A momentum
    of 1 changes no bit, a momentum of 0 copies.

    Args:
        target: Tensors to change.
        online: The online tensors, with the same shapes and in the same order.
        momentum: m, in [0, 1].

    Raises:
        ValueError: The lists differ in length or a pair in shape, or the momentum is out of range.
    """
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"target momentum = {momentum}: must lie in [0, 1]")
    if [tensor.shape for tensor in target] != [tensor.shape for tensor in online]:
        raise ValueError(f"{len(target)} target and {len(online)} online tensors do not pair up by shape")
    if not target or momentum == 1.0:
        return
    if momentum == 0.0:
        torch._foreach_copy_(list(target), list(online))
    else:
        torch._foreach_lerp_(list(target), list(online), 1.0 - momentum)
