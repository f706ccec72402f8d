"""Small tensor functions for objectives: precision, and cosines that stay finite."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Cast `x` to float32 unless it is float64; norms and logarithms lose too much in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast on `device`; it does nothing on devices without autocast, such as meta."""
    if device.type != "meta" and torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale vectors along the last axis to length 1, in float32 or wider.

    A vector no longer than `eps` has no direction: it becomes zero and gets no gradient. (Dividing by `max(norm, eps)`
    would give it a gradient of 1 / eps instead, finite but as destructive as NaN.)
    """
    x = widen(x)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.where(norm > eps, 1 / norm.clamp_min(eps), 0)


def cosine_similarity(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the cosine of vectors along the last axis, other axes broadcast; 0 where one has no direction.

    It is not a matrix product, so that neither autocast nor TF32 reduces its precision.
    """
    return (unit(a, eps) * unit(b, eps)).sum(-1)
