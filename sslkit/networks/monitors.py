"""What is watched while training: spread, alignment, uniformity, likeness to the target, rank, conflict of gradients.

Nothing here changes a weight, a random number or a running statistic.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkit.nn import cosine_similarity, unit

EVERY_STEP = ("feature_std", "prediction_std", "alignment", "uniformity", "target_similarity")
"""Names of what is watched in every step."""
MAX_IMAGES = 256
"""Uniformity is taken over the pairs of at most so many images of a pass."""
ROWS_PER_DIMENSION = 2
"""RankMe is taken over so many rows per dimension, and not over fewer."""
MAX_DIMENSIONS = 2048
"""RankMe is not taken of wider rows: their window would not stay small."""


def is_measured(name: str) -> bool:
    """Say whether a value is of those that are measured every n steps only."""
    return name.startswith(("rankme.", "conflict.")) or name.endswith((".forward_ms", ".backward_ms", ".gradient_norm"))


# ------------------------------------------------------------------------------------------------- every step


def feature_std(z: Tensor) -> Tensor:
    """Standard deviation of L2-normalised rows (n d) over n, averaged over d, times sqrt(d): 1 spread, 0 collapsed.

    The collapse check of SimSiam (arXiv 2011.10566, section 4.1), scaled so that its 1 / sqrt(d) becomes 1.
    """
    return _std(unit(z))


def _std(z: Tensor) -> Tensor:
    return z.std(dim=0, correction=0).mean() * math.sqrt(z.shape[-1])


def alignment(z: Tensor) -> Tensor:
    """Mean squared distance between the L2-normalised views of an image, z (n v d), over ordered pairs: in [0, 4].

    Arxiv 2005.10242, section 4.1, alpha = 2. With more than two views it is the mean over all pairs, which is twice
    the unbiased variance over the views, summed over d.
    """
    return _alignment(unit(z))


def _alignment(z: Tensor) -> Tensor:
    around = z - z.mean(dim=1, keepdim=True)
    return 2 * around.square().sum((1, 2)).mean() / (z.shape[1] - 1)


def uniformity(z: Tensor) -> Tensor:
    """Logarithm of the mean of exp(-2 |x - y|^2) over pairs of L2-normalised rows (n d): in [-8, 0], 0 collapsed.

    Arxiv 2005.10242, section 4.1, t = 2. Over the pairs of the first `MAX_IMAGES` rows.
    """
    return _uniformity(unit(z[:MAX_IMAGES]))


def _uniformity(z: Tensor) -> Tensor:
    squared = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()  # pdist is not on all devices
    near = squared.mul(-2).exp().fill_diagonal_(0)
    return (near.sum() / (len(z) * (len(z) - 1))).log()


def target_similarity(online: Tensor, target: Tensor) -> Tensor:
    """Mean cosine between what both networks make of the same view, each (n v d): in [-1, 1]."""
    return cosine_similarity(online, target).mean()


@torch.no_grad()
def every_step(online: Tensor, target: Tensor | None = None, prediction: Tensor | None = None) -> dict[str, Tensor]:
    """Return what is watched in every step, as scalars on the device.

    Args:
        online: Shape (b v d): projections of the watched view group, or features where there is no projection.
        target: The same of the target network, where there is one.
        prediction: Shape (b v d): what the predictor makes of `online`, where some objective reads it.
    """
    z = unit(online)
    watched = {"feature_std": _std(z[:, 0]), "uniformity": _uniformity(z[:MAX_IMAGES, 0])}
    if prediction is not None:
        watched["prediction_std"] = feature_std(prediction[:, 0])
    if online.shape[1] > 1:
        watched["alignment"] = _alignment(z)
    if target is not None:
        watched["target_similarity"] = (z * unit(target)).sum(-1).mean()
    return watched


# ------------------------------------------------------------------------------------------------------- rank


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """Return the effective rank of rows (n d): the exponential of the entropy of their singular values.

    RankMe, arXiv 2210.02885, equation 1: p_k = s_k / sum(s) + eps, exp(-sum p_k log p_k). Rows are not centred, as
    there. Singular values are roots of the eigenvalues of z^T z in float64; NaN where something is not finite.
    """
    z = (z.cpu() if z.device.type == "mps" else z).double()
    gram = z.T @ z if len(z) >= z.shape[1] else z @ z.T
    if not bool(gram.isfinite().all()):
        return math.nan
    s = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = s / s.sum().clamp_min(torch.finfo(s.dtype).tiny) + eps
    return math.exp(-float((p * p.log()).sum()))


@dataclass
class Window:
    """The newest rows of one kind, one per image, `ROWS_PER_DIMENSION` times as many as they are wide."""

    chunks: deque[Tensor] = field(default_factory=deque)

    def add(self, rows: Tensor) -> None:
        """Take in the rows of a pass (b d), and forget what is older than needed."""
        if rows.shape[1] > MAX_DIMENSIONS:
            rows = rows[:0]  # only the width is kept
        self.chunks.append(rows.detach().float().clone())
        while self.count - len(self.chunks[0]) >= self.wanted:
            self.chunks.popleft()

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.chunks))

    @property
    def width(self) -> int:
        """How wide they are."""
        return self.chunks[-1].shape[1] if self.chunks else 0

    @property
    def wanted(self) -> int:
        """How many rows a measurement takes."""
        return ROWS_PER_DIMENSION * self.width

    def refusal(self) -> str | None:
        """Say why RankMe cannot be taken of what is there, or None."""
        if self.width > MAX_DIMENSIONS:
            return f"D = {self.width} is more than {MAX_DIMENSIONS}, for which a window of rows would not stay small"
        if self.count < self.wanted:
            return f"N = {self.count} images so far are fewer than {ROWS_PER_DIMENSION} D = {self.wanted}"
        return None

    def rows(self) -> Tensor:
        """Return the newest rows, as many as a measurement takes or as there are (n d)."""
        return torch.cat(list(self.chunks))[-self.wanted :]


@dataclass
class Monitors:
    """When the costlier monitors are due, and the windows of rows that they look at.

    Attributes:
        every: Optimizer steps between measurements; 0 switches them off.
        whole: Whether parameters are whole in every process, as the conflict map needs them.
        windows: Kind of row -> its newest rows in this process.
        refused: Kind of row -> why RankMe was not taken of it, said once.
    """

    every: int
    whole: bool = True
    windows: dict[str, Window] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        """Say whether to measure in optimizer step `step` (from 1): in the first, and in every `every`-th."""
        return self.every > 0 and (step == 1 or step % self.every == 0)

    def maps(self, step: int) -> bool:
        """Say whether to take the conflict map in optimizer step `step`."""
        return self.whole and self.due(step)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Take in the rows of a pass, kind -> (b d)."""
        if self.every:
            for kind, given in rows.items():
                self.windows.setdefault(kind, Window()).add(given)

    def ranks(self) -> dict[str, float]:
        """Return RankMe where there are rows enough, and always N and D: `rankme.KIND`, `..._n`, `..._d`."""
        told: dict[str, float] = {}
        for kind, window in self.windows.items():
            told |= {f"rankme.{kind}_n": min(window.count, window.wanted), f"rankme.{kind}_d": window.width}
            if window.refusal() is None:
                told[f"rankme.{kind}"] = rankme(window.rows())
        return told

    def refusals(self) -> Iterable[str]:
        """Yield, once for each kind of row, why RankMe is not taken."""
        for kind, window in self.windows.items():
            reason = window.refusal()
            if reason and kind not in self.refused:
                self.refused[kind] = reason
                yield f"rankme.{kind} is not taken: {reason}"

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: without it, a resumed run would measure other rows."""
        return {kind: window.rows().clone() for kind, window in self.windows.items()}

    def load(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from a checkpoint's windows."""
        if self.every:
            self.windows = {kind: Window(deque([rows.to(device)])) for kind, rows in state.items()}


# --------------------------------------------------------------------------------------------------- conflict


class Timer:
    """Milliseconds between laps, with the device's queue empty at either end; off, it neither waits nor measures."""

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


class Part(NamedTuple):
    """An objective's share of the loss.

    Attributes:
        loss: Scalar, weighted.
        forward_ms: What the objective itself took, on embeddings that were there.
    """

    loss: Tensor
    forward_ms: float


def gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
    """Return d loss / d parameters as one vector; None where the loss does not reach any. The graph is kept.

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


def conflict(
    parts: Mapping[str, Part],
    parameters: Sequence[Tensor],
    scale: float = 1.0,
    mean: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Return each objective's times and gradient norm on the backbone, and the cosines between their gradients.

    `NAME.forward_ms`, `NAME.backward_ms` (from its loss to the backbone's parameters), `NAME.gradient_norm` (of the
    weighted loss), `conflict.A.B` in [-1, 1]: below 0, a step along one gradient goes against the other. An objective
    that does not reach the backbone has norm 0 and no cosine.

    Args:
        parts: Objective -> its part of the loss, with its graph.
        parameters: Of the backbone; those that are not trained are left out.
        scale: Multiplies losses on their way back, so that half precision does not underflow; norms are without it.
        mean: Averages a vector over processes, where there are several.
    """
    trained = [p for p in parameters if p.requires_grad]
    told: dict[str, float] = {}
    vectors: dict[str, Tensor] = {}
    timer = Timer(trained[0].device, on=True) if trained else None
    for name, part in parts.items():
        found = gradient(scale * part.loss, trained) if trained else None
        told |= {f"{name}.forward_ms": part.forward_ms, f"{name}.backward_ms": timer.lap() if timer else 0.0}
        if found is not None:
            vectors[name] = mean(found) if mean else found
    norms = {name: float(torch.linalg.vector_norm(vector)) for name, vector in vectors.items()}
    told |= {f"{name}.gradient_norm": norms.get(name, 0.0) / scale for name in parts}
    for a, b in combinations(vectors, 2):
        if norms[a] > 0 and norms[b] > 0:
            told[f"conflict.{a}.{b}"] = float(torch.dot(vectors[a] / norms[a], vectors[b] / norms[b]))
    return told
