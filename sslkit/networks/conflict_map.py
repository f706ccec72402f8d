"""The conflict map: gradient norms of the objectives on the backbone, and the cosines between their gradients.

Nothing here changes a weight, a random number or a running statistic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor


class Timer:
    """A stopwatch for laps in milliseconds, with the device's queue empty at both ends of a lap.

    Args:
        on: Whether to wait for the device; if not, laps mean nothing.
    """

    def __init__(self, device: torch.device, on: bool) -> None:
        self.device, self.on = device, on
        self.last = self._now()

    def lap(self) -> float:
        """Return the milliseconds since the last lap."""
        before, self.last = self.last, self._now()
        return 1e3 * (self.last - before)

    def _now(self) -> float:
        if self.on and self.device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


class ObjectiveLoss(NamedTuple):
    """The loss of one objective.

    Attributes:
        loss: Weighted scalar, with its graph.
        forward_ms: Time of the objective's own forward pass, on finished embeddings.
    """

    loss: Tensor
    forward_ms: float


def gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
    """Return d loss / d parameters as one vector, keeping the graph; None if the loss reaches none of them.

    Gradients are not accumulated into `.grad`, and no hook of DDP fires.
    """
    if not loss.requires_grad:
        return None
    grads: Sequence[Tensor | None] = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    if all(grad is None for grad in grads):
        return None
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).detach().float().flatten()
            for p, g in zip(parameters, grads, strict=True)
        ]
    )


def conflict_map(
    losses: Mapping[str, ObjectiveLoss],
    parameters: Sequence[Tensor],
    scale: float = 1.0,
    mean: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Return each objective's times and its gradient norm on the backbone, and the cosines between their gradients.

    `NAME.forward_ms`, `NAME.backward_ms` (from its loss to the backbone's parameters), `NAME.gradient_norm` (of the
    weighted loss), `conflict.A.B` in [-1, 1]: below 0, a step along one gradient goes against the other. An objective
    that does not reach the backbone has norm 0 and no cosine.

    Args:
        losses: Objective -> its loss.
        parameters: Parameters of the backbone; those that are not trained are left out.
        scale: Factor on the losses in the backward pass, so that half precision does not underflow; norms exclude it.
        mean: Averages a vector over ranks; None with a single rank.
    """
    trained = [p for p in parameters if p.requires_grad]
    values: dict[str, float] = {}
    vectors: dict[str, Tensor] = {}
    timer = Timer(trained[0].device, on=True) if trained else None
    for name, item in losses.items():
        vector = gradient(scale * item.loss, trained) if trained else None
        values |= {f"{name}.forward_ms": item.forward_ms, f"{name}.backward_ms": timer.lap() if timer else 0.0}
        if vector is not None:
            vectors[name] = mean(vector) if mean else vector
    norms = {name: float(torch.linalg.vector_norm(vector)) for name, vector in vectors.items()}
    values |= {f"{name}.gradient_norm": norms.get(name, 0.0) / scale for name in losses}
    for a, b in combinations(vectors, 2):
        if norms[a] > 0 and norms[b] > 0:
            values[f"conflict.{a}.{b}"] = float(torch.dot(vectors[a] / norms[a], vectors[b] / norms[b]))
    return values
