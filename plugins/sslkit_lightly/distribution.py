"""Losses that shape the distribution of embeddings over the batch: far from their neighbours, or Gaussian."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from lightly.loss import KoLeoLoss, LeJEPALoss, VISRegLoss
from lightly.loss.lejepa_loss import SIGReg as LightlySIGReg
from lightly.loss.lejepa_loss import lejepa_invariance_loss
from pydantic import Field
from torch import Tensor

from sslkit.api import Dims, Objective, Terms
from sslkit_lightly.shared import Count, Share, Weight, mean, new_seed, require_views, seeded, stand_in_loss


class KoLeo(Objective):
    """Push the features of each image away from their nearest neighbour in the batch: the KoLeo regulariser.

    KoLeo (arXiv 1806.03198) as in DINOv2 (arXiv 2304.07193, section 4): on the backbone's features, view by view.
    Lightly's KoLeoLoss, averaged over the views (DINOv2 sums them).
    """

    name: ClassVar[str] = "koleo"
    requires: ClassVar[dict[str, str]] = {"x": "online.features.scene: b v f"}
    couples_batch: ClassVar[bool] = True

    def __init__(self, dims: Dims) -> None:  # noqa: ARG002
        super().__init__()
        self.loss = KoLeoLoss()

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Spread features `x` (b v f) over the batch."""
        return mean([self.loss(view) for view in x.unbind(1)])


class Sliced(Objective):
    """An objective on random directions, drawn from a seed that changes once per step and is the same on every rank."""

    couples_batch: ClassVar[bool] = True
    seed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seed", new_seed())

    def after_step(self, step: int, epoch: float) -> None:  # noqa: ARG002
        """Change the seed of the directions."""
        self.seed += 1


class SigReg(Sliced):
    """Make the projections of a batch an isotropic Gaussian along random directions: the SIGReg regulariser.

    SIGReg of LeJEPA (arXiv 2511.08544, section 4): the Epps-Pulley statistic along random directions, with
    lightly's SIGReg, averaged over views. Directions depend on a seed that is state and changes once per step.

    Args:
        directions: Random directions per step.
        knots: Frequencies at which the characteristic function is compared.
        t_max: The largest frequency.
    """

    name: ClassVar[str] = "sigreg"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.scene: b v d"}

    def __init__(
        self, dims: Dims, *, directions: Count = 1024,  # noqa: ARG002
        knots: Annotated[int, Field(ge=2, le=10_000)] = 17, t_max: Annotated[float, Field(gt=0)] = 3.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.loss = LightlySIGReg(knots=knots, t_max=t_max, num_vectors=directions)

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare projections `z` (b v d) with a Gaussian."""
        with seeded(self.seed, z):
            loss: Tensor = self.loss(z.transpose(0, 1))
        return loss


class LeJepa(Sliced):
    """Bring all views to the mean of the global ones, and make the batch an isotropic Gaussian: LeJEPA.

    LeJEPA (arXiv 2511.08544, section 5): lightly's LeJEPALoss. Its two parts are called separately, because it
    requires a local view and does not return its terms. It needs no target network and no predictor.
    Directions depend on a seed that is state and changes once per step.

    Args:
        gaussian: lambda, weight of SIGReg; the distances have weight 1 - lambda.
        directions: Random directions per step.
        knots: Frequencies at which the characteristic function is compared.
        t_max: The largest frequency.
    """

    name: ClassVar[str] = "lejepa"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.global: b v d"}
    optional: ClassVar[dict[str, str]] = {"local": "online.projection.local: b m d"}

    def __init__(
        self, dims: Dims, *, gaussian: Share = 0.05, directions: Count = 1024,
        knots: Annotated[int, Field(ge=2, le=10_000)] = 17, t_max: Annotated[float, Field(gt=0)] = 3.0,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims, "v", "m")
        self.loss = LeJEPALoss(gaussian, sigreg_knots=knots, sigreg_t_max=t_max, sigreg_num_vectors=directions)

    def forward(self, z: Tensor, local: Tensor | None) -> Terms:  # type: ignore[override]
        """Compare projections of global views `z` (b v d) and, if any, local views (b m d)."""
        views = z.transpose(0, 1)
        all_views = views if local is None else torch.cat([views, local.transpose(0, 1)])
        with seeded(self.seed, z):
            gaussian = self.loss.lambda_param * self.loss.sigreg(all_views)
        distance = lejepa_invariance_loss(all_proj=all_views, global_proj=views)
        return Terms({"gaussian": gaussian, "invariance": (1.0 - self.loss.lambda_param) * distance})


class VisReg(Sliced):
    """Bring all views to the mean of the global ones, and give the batch a Gaussian's centre, scale and shape: VISReg.

    VISReg (arXiv 2606.02572, equations 1 to 6), with lightly's VISRegLoss. Directions depend on a seed that is state
    and changes once per step. In the paper each rank draws its own directions.

    Args:
        gaussian: lambda, weight of the three Gaussian terms; the distances have weight 1 - lambda.
        directions: Random directions per step.
        scale: Weight of the standard deviations.
        shape: Weight of the sliced Wasserstein distance.
        centre: Weight of the mean.
        eps: Added to standard deviations.
    """

    name: ClassVar[str] = "visreg"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.global: b v d"}
    optional: ClassVar[dict[str, str]] = {"local": "online.projection.local: b m d"}

    def __init__(
        self, dims: Dims, *, gaussian: Share = 0.9, directions: Count = 4096, scale: Weight = 1.0, shape: Weight = 1.0,
        centre: Weight = 1.0, eps: Annotated[float, Field(gt=0)] = 1e-4,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims, "v", "m")
        self.loss = VISRegLoss(gaussian, directions, scale, shape, centre, eps=eps)

    def forward(self, z: Tensor, local: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compare projections of global views `z` (b v d) and, if any, local views (b m d)."""
        views = z.transpose(0, 1)
        others = views[:0] if local is None else local.transpose(0, 1)
        if z.is_meta:
            slices = z.new_empty(self.loss.num_slices, z.shape[-1])
            return stand_in_loss(torch.cat([views, others]).flatten(0, 1), slices)
        with seeded(self.seed, z):
            loss: Tensor = self.loss(local_proj=others, global_proj=views)
        return loss
