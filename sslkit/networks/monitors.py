"""Monitors of training: spread, alignment, uniformity, similarity to the target, effective rank.

Nothing here changes a weight, a random number or a running statistic.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sslkit.nn import cosine_similarity, unit

EVERY_STEP = ("feature_std", "prediction_std", "alignment", "uniformity", "target_similarity")
"""Names of the monitors that are computed in every step."""
MAX_IMAGES = 256
"""Largest number of a micro-batch's images whose pairs uniformity is computed over."""
ROWS_PER_DIMENSION = 2
"""Rows per dimension that RankMe needs; with fewer, it is not computed."""
MAX_DIMENSIONS = 2048
"""RankMe is not computed for wider rows: their window would be large."""


def is_measured(name: str) -> bool:
    """Return whether a value is measured only every n steps."""
    return name.startswith(("rankme.", "conflict.")) or name.endswith((".forward_ms", ".backward_ms", ".gradient_norm"))


# ------------------------------------------------------------------------------------------------- every step


def feature_std(z: Tensor) -> Tensor:
    """Return the standard deviation of L2-normalised rows (n d) over n, averaged over d, times sqrt(d).

    1 means spread over the sphere, 0 collapsed. This is the collapse check of SimSiam (arXiv 2011.10566, section
    4.1), scaled so that its 1 / sqrt(d) becomes 1.
    """
    return _std(unit(z))


def _std(z: Tensor) -> Tensor:
    return z.std(dim=0, correction=0).mean() * math.sqrt(z.shape[-1])


def alignment(z: Tensor) -> Tensor:
    """Return the mean squared distance between the L2-normalised views of an image, z (n v d): in [0, 4].

    arXiv 2005.10242, section 4.1, alpha = 2. The mean is over all ordered pairs of views, which is twice the unbiased
    variance over the views, summed over d.
    """
    return _alignment(unit(z))


def _alignment(z: Tensor) -> Tensor:
    centred = z - z.mean(dim=1, keepdim=True)
    return 2 * centred.square().sum((1, 2)).mean() / (z.shape[1] - 1)


def uniformity(z: Tensor) -> Tensor:
    """Return log mean exp(-2 |x - y|^2) over pairs of L2-normalised rows (n d): in [-8, 0], 0 collapsed.

    arXiv 2005.10242, section 4.1, t = 2. The pairs are those of the first `MAX_IMAGES` rows.
    """
    return _uniformity(unit(z[:MAX_IMAGES]))


def _uniformity(z: Tensor) -> Tensor:
    squared = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()  # some devices lack pdist
    kernel = squared.mul(-2).exp().fill_diagonal_(0)
    return (kernel.sum() / (len(z) * (len(z) - 1))).log()


def target_similarity(online: Tensor, target: Tensor) -> Tensor:
    """Return the mean cosine similarity between both networks' rows of the same view, each (n v d): in [-1, 1]."""
    return cosine_similarity(online, target).mean()


@torch.no_grad()
def every_step(online: Tensor, target: Tensor | None = None, prediction: Tensor | None = None) -> dict[str, Tensor]:
    """Return the monitors of one step, as scalars on the device.

    Args:
        online: Shape (b v d): projections of the watched view group, or features if there is no projection.
        target: The same from the target network, if there is one.
        prediction: Shape (b v d): predictions from `online`, if some objective reads them.
    """
    z = unit(online)
    values = {"feature_std": _std(z[:, 0]), "uniformity": _uniformity(z[:MAX_IMAGES, 0])}
    if prediction is not None:
        values["prediction_std"] = feature_std(prediction[:, 0])
    if online.shape[1] > 1:
        values["alignment"] = _alignment(z)
    if target is not None:
        values["target_similarity"] = (z * unit(target)).sum(-1).mean()
    return values


# ------------------------------------------------------------------------------------------------------- rank


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """Return the effective rank of rows (n d): the exponential of the entropy of their singular values.

    RankMe, arXiv 2210.02885, equation 1: p_k = s_k / sum(s) + eps, exp(-sum p_k log p_k). As in the paper, rows are
    not centred. Singular values are roots of the eigenvalues of z^T z in float64. NaN where a value is not finite.
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
    """A window over the newest rows of one kind, one per image: `ROWS_PER_DIMENSION` rows per dimension."""

    chunks: deque[Tensor] = field(default_factory=deque)

    def add(self, rows: Tensor) -> None:
        """Add the rows of a micro-batch (b d), and drop rows that are no longer needed."""
        if rows.shape[1] > MAX_DIMENSIONS:
            rows = rows[:0]  # only their width is needed
        self.chunks.append(rows.detach().float().clone())
        while self.count - len(self.chunks[0]) >= self.size:
            self.chunks.popleft()

    @property
    def count(self) -> int:
        """The number of rows so far."""
        return sum(map(len, self.chunks))

    @property
    def width(self) -> int:
        """The number of dimensions of a row."""
        return self.chunks[-1].shape[1] if self.chunks else 0

    @property
    def size(self) -> int:
        """The number of rows that RankMe needs."""
        return ROWS_PER_DIMENSION * self.width

    def refusal(self) -> str | None:
        """Return why RankMe cannot be computed from these rows, or None if it can."""
        if self.width > MAX_DIMENSIONS:
            return f"D = {self.width} is more than {MAX_DIMENSIONS}, for which the window of rows would be large"
        if self.count < self.size:
            return f"N = {self.count} images so far are fewer than {ROWS_PER_DIMENSION} D = {self.size}"
        return None

    def rows(self) -> Tensor:
        """Return the newest rows (n d), at most the `size` that RankMe needs."""
        return torch.cat(list(self.chunks))[-self.size :]


@dataclass
class Monitors:
    """Schedule the expensive monitors, and hold the windows of rows that they read.

    Attributes:
        every: Optimizer steps between measurements; 0 switches them off.
        has_full_parameters: Whether every rank holds full parameters, as the conflict map needs.
        device: Device that restored rows are placed on.
        windows: Kind of row -> its newest rows on this rank.
        reported: Kind of row -> why RankMe was not computed for it, as already reported.
    """

    every: int
    has_full_parameters: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    windows: dict[str, Window] = field(default_factory=dict)
    reported: dict[str, str] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        """Return whether to measure in optimizer step `step` (from 1): in the first, and in every `every`-th."""
        return self.every > 0 and (step == 1 or step % self.every == 0)

    def conflict_map_due(self, step: int) -> bool:
        """Return whether to compute the conflict map in optimizer step `step`."""
        return self.has_full_parameters and self.due(step)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Add the rows of a micro-batch, kind -> (b d)."""
        if self.every:
            for kind, added in rows.items():
                self.windows.setdefault(kind, Window()).add(added)

    def ranks(self) -> dict[str, float]:
        """Return RankMe if there are enough rows, and always N and D: `rankme.KIND`, `..._n`, `..._d`."""
        values: dict[str, float] = {}
        for kind, window in self.windows.items():
            values |= {f"rankme.{kind}_n": min(window.count, window.size), f"rankme.{kind}_d": window.width}
            if window.refusal() is None:
                values[f"rankme.{kind}"] = rankme(window.rows())
        return values

    def refusals(self) -> Iterable[str]:
        """Yield, once for each kind of row, why RankMe is not computed."""
        for kind, window in self.windows.items():
            reason = window.refusal()
            if reason and kind not in self.reported:
                self.reported[kind] = reason
                yield f"rankme.{kind} is not computed: {reason}"

    def state_dict(self) -> dict[str, Any]:
        """Return the windows for a checkpoint: without them, a resumed run would measure other rows."""
        return {kind: window.rows().clone() for kind, window in self.windows.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the windows of a checkpoint."""
        if self.every:
            self.windows = {kind: Window(deque([rows.to(self.device)])) for kind, rows in state.items()}
