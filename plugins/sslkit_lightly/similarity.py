"""Losses that make the views of one image similar: BYOL, SimSiam and TiCo."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from lightly.loss import NegativeCosineSimilarity, TiCoLoss
from pydantic import Field
from torch import Tensor

from sslkit.api import Dims, Objective
from sslkit_lightly.shared import Weight, mean_over_directions, require_views


class Byol(Objective):
    """Predict each view's target projection from every other view: BYOL, with lightly's negative cosine.

    BYOL (arXiv 2006.07733, section 3.1). The mean of -cos(p_i, z_j) over ordered pairs of different
    views, in [-1, 1]: with two views lightly's 0.5 (L(p_0, z_1) + L(p_1, z_0)). The paper's 2 - 2 cos, summed over both
    directions, is 4 + 4 times this; `univip/scene-scene` with its default is 2 times this.
    """

    name: ClassVar[str] = "byol"
    requires: ClassVar[dict[str, str]] = {
        "p": "online.prediction.scene: b v d",
        "z": "target.projection.scene: b v d",
    }

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        require_views(dims)
        self.loss = NegativeCosineSimilarity()

    def forward(self, p: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare online predictions `p` with target projections `z`, both (b v d)."""
        return mean_over_directions(self.loss, p, z)


class SimSiam(Objective):
    """Predict each view's projection, with its gradient stopped, from every other view: SimSiam.

    SimSiam (arXiv 2011.10566, section 3, equations 1 to 4). The mean of -cos(p_i, stopgrad(z_j)) over ordered pairs of
    different views, in [-1, 1]: with two views the paper's and lightly's 0.5 (D(p_0, z_1) + D(p_1, z_0)). With more
    views it has several targets, as FastSiam has, but does not average them.
    """

    name: ClassVar[str] = "simsiam"
    requires: ClassVar[dict[str, str]] = {
        "p": "online.prediction.scene: b v d",
        "z": "online.projection.scene: b v d",
    }

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        require_views(dims)
        self.loss = NegativeCosineSimilarity()

    def forward(self, p: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare predictions `p` with projections `z` of the same network, both (b v d)."""
        return mean_over_directions(self.loss, p, z.detach())


class TiCo(Objective):
    """Agree with the target network and avoid the directions of past embeddings: TiCo.

    TiCo (arXiv 2206.10698): 1 - z z' + rho z^T C z, where C is a running mean of the covariance of all
    embeddings so far. The first view is online and the others are the target's, as in lightly's example.

    The covariance (d d) is state: each forward pass updates it, so with `accumulate` it is updated more than once per
    step.

    Args:
        beta: Weight of the old covariance in each update.
        rho: Weight of the covariance term.
        symmetric: Average over all ordered pairs of views, so that each view is online in turn; C is updated once per
            pair.
    """

    name: ClassVar[str] = "tico"
    requires: ClassVar[dict[str, str]] = {
        "p": "online.projection.scene: b v d",
        "z": "target.projection.scene: b v d",
    }
    couples_batch: ClassVar[bool] = True

    def __init__(
        self, dims: Dims, *, beta: Annotated[float, Field(ge=0, lt=1)] = 0.9, rho: Weight = 8.0, symmetric: bool = False
    ) -> None:
        super().__init__()
        require_views(dims)
        self.symmetric = symmetric
        self.loss = TiCoLoss(beta=beta, rho=rho)
        del self.loss.C  # lightly creates it in the first forward pass, too late for a checkpoint to restore it
        self.loss.register_buffer("C", torch.zeros(dims["d"], dims["d"]))

    def forward(self, p: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare online projections `p` with target projections `z`, both (b v d)."""
        return mean_over_directions(self.loss, p, z, self.symmetric)
