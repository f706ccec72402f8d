"""Compare the states of runs, bit for bit."""

from __future__ import annotations

from typing import Any

import torch

from sslkit.storage import checkpoint


def newest(result: Any) -> dict[str, Any]:
    """Return the state in the newest checkpoint of a run."""
    return checkpoint.load(checkpoint.latest(result.folder / "checkpoints"))


def same(a: Any, b: Any) -> bool:
    """Return whether nested states are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
