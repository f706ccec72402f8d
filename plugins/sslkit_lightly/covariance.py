"""Losses on the covariance of embeddings or its eigenvalues: decorrelation, whitening, coding rate, nuclear norm."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, EMPSSLLoss, FroSSLLoss, MMCRLoss, VICRegLoss, WMSELoss
from pydantic import Field
from torch import Tensor

from sslkit.api import Dims, Objective
from sslkit_lightly.contrastive import PairObjective
from sslkit_lightly.shared import Count, Share, Weight, mean, new_seed, require_views, seeded, stand_in_loss


class BarlowTwins(PairObjective):
    """Make the cross-correlation matrix of two views' projections the identity: Barlow Twins.

    Barlow Twins (arXiv 2103.03230, section 2.1, equations 1 and 2), averaged over the pairs of views. With two views it
    equals lightly's BarlowTwinsLoss.

    Args:
        off_diagonal: lambda, weight of the off-diagonal entries.
    """

    name: ClassVar[str] = "barlow-twins"

    def __init__(self, dims: Dims, *, off_diagonal: Weight = 5e-3) -> None:
        super().__init__(dims, BarlowTwinsLoss(lambda_param=off_diagonal))


class VicReg(PairObjective):
    """Bring views together, keep the variance of each dimension and remove correlations: VICReg.

    VICReg (arXiv 2105.04906, section 4.1, equations 1 to 6), averaged over the pairs of views. With two views it equals
    lightly's VICRegLoss. With `covariance = 0.5` it is the global part of lightly's VICRegL.

    Args:
        invariance: lambda, weight of the squared distance of views.
        variance: mu, weight of the hinge loss on standard deviations.
        covariance: nu, weight of the squared covariances.
        eps: Added to variances.
    """

    name: ClassVar[str] = "vicreg"

    def __init__(
        self, dims: Dims, *, invariance: Weight = 25.0, variance: Weight = 25.0, covariance: Weight = 1.0,
        eps: Annotated[float, Field(gt=0)] = 1e-4,
    ) -> None:  # fmt: skip
        super().__init__(dims, VICRegLoss(invariance, variance, covariance, eps=eps))

    def pair(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare two views, both (b d)."""
        if a.is_meta:
            return stand_in_loss(a.T, a.T) + stand_in_loss(b.T, b.T)
        return super().pair(a, b)


class WMse(Objective):
    """Bring whitened views together: W-MSE.

    W-MSE (arXiv 2007.06346, section 3, on the unit sphere), summed over the pairs of views and divided by
    their number, with lightly's WMSELoss. The batch is split at random into sub-batches of `size`, which must divide
    it; a smaller batch is whitened as a whole. The random draws depend on a seed that is state, changes once per step
    and is the same on every rank.

    With `eps = 0`, as in the paper, collapsed embeddings cannot be whitened and end the run with an error.

    Args:
        size: Number of images that are whitened together; at least twice the width of the projections.
        iterations: Number of random splits of the batch.
        eps: Weight of the identity in the covariance.
    """

    name: ClassVar[str] = "w-mse"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.scene: b v d"}
    couples_batch: ClassVar[bool] = True
    seed: Tensor

    def __init__(self, dims: Dims, *, size: Count = 256, iterations: Count = 1, eps: Share = 0.0) -> None:
        super().__init__()
        require_views(dims)
        if size < 2 * dims["d"]:
            raise ValueError(f"size = {size} is less than twice the {dims['d']} entries to whiten")
        self.size = size
        self._sub_batch_size(dims.get("b", size))
        if not eps and dims.get("b", size) <= dims["d"]:
            raise ValueError(
                f"a batch of {dims['b']} does not span {dims['d']} dimensions, so it cannot be whitened with eps = 0"
            )
        self.loss = WMSELoss(dims["d"], eps=eps, track_running_stats=False, w_iter=iterations, w_size=size,
                             num_samples=dims["v"])  # fmt: skip
        self.register_buffer("seed", new_seed())

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        """Whiten and compare projections `z` (b v d).

        Raises:
            ValueError: The batch does not divide into sub-batches.
        """
        self.loss.w_size = self._sub_batch_size(z.shape[0])
        if z.is_meta:
            return stand_in_loss(z.flatten(0, 1).T, z.flatten(0, 1).T)
        with seeded(self.seed, z):
            loss: Tensor = self.loss(z.transpose(0, 1).flatten(0, 1))
        return loss

    def _sub_batch_size(self, batch: int) -> int:
        """Return how many images of a batch are whitened together; raise ValueError if that does not divide it."""
        size = min(self.size, batch)
        if batch % size:
            raise ValueError(f"a batch of {batch} does not divide into sub-batches of size = {self.size}")
        return size

    def after_step(self, step: int, epoch: float) -> None:  # noqa: ARG002
        """Change the seed of the draws."""
        self.seed += 1


class FroSsl(Objective):
    """Bring views to their mean and spread each by the Frobenius norm of its covariance: FroSSL.

    FroSSL (arXiv 2310.02903), in its multi-view form, with lightly's FroSSLLoss on all views. A view whose embeddings
    are all zero has no covariance to divide by its trace. It counts as collapsed to one direction, which is the worst
    that the spread of a view can be, and gets no gradient.

    Args:
        invariance: Weight of the squared distance of the views from their mean.
    """

    name: ClassVar[str] = "frossl"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.scene: b v d"}
    couples_batch: ClassVar[bool] = True

    def __init__(self, dims: Dims, *, invariance: Weight = 1.0) -> None:
        super().__init__()
        require_views(dims)
        self.loss = FroSSLLoss(invariance_weight=invariance)

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare projections `z` (b v d)."""
        if z.is_meta:
            return mean([stand_in_loss(view.T, view.T) for view in z.unbind(1)])
        loss: Tensor = self.loss([_or_one_direction(view) for view in z.unbind(1)])
        return loss


def _or_one_direction(view: Tensor) -> Tensor:
    """Return a view (b d), or if it is zero, equal embeddings that are almost zero.

    Lightly divides columns by their length, or by 1e-12 if that is larger; what is smaller than 1e-30 is then zero when
    it is squared.
    """
    return torch.where(view.abs().amax() <= 1e-30, view.new_full((), 1e-16), view)


class EmpSsl(Objective):
    """Bring many crops to their mean and maximise each crop's coding rate over the batch: EMP-SSL.

    EMP-SSL (arXiv 2304.03977, section 2): -R(Z) / v - lambda cos(z_i, mean z), where R is the total
    coding rate. Lightly's EMPSSLLoss adds the rate instead of subtracting it, so its minimum is at embeddings of
    zero. Here lightly's loss is called with -lambda and its sign is flipped, which gives the paper's loss.

    Args:
        invariance: lambda, weight of the cosines.
        eps: The coding rate's epsilon, as used in the authors' code.
        normalise: Normalise projections to length 1 first, as the authors' projector does.
    """

    name: ClassVar[str] = "emp-ssl"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.scene: b v d"}
    couples_batch: ClassVar[bool] = True

    def __init__(
        self, dims: Dims, *, invariance: Weight = 200.0, eps: Annotated[float, Field(gt=0)] = 0.2,
        normalise: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims)
        self.normalise = normalise
        self.loss = EMPSSLLoss(tcr_eps=eps, inv_coef=-invariance)

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare projections `z` (b v d)."""
        z = F.normalize(z, dim=-1) if self.normalise else z
        loss: Tensor = -self.loss(list(z.unbind(1)))
        return loss


class Mmcr(Objective):
    """Make the mean embeddings of views span as much as possible: maximum manifold capacity representations.

    MMCR (arXiv 2303.03307): minus the nuclear norm of the centroids over the views of both
    networks, with lightly's MMCRLoss. It computes full decompositions of one matrix (b d) and b matrices (2v d), which
    is slow for large d.

    Args:
        compression: lambda, weight of the nuclear norm of each image's own views.
        normalise: Normalise embeddings to length 1 first, as in the paper; lightly leaves that to the caller, and
            without it the loss has no lower bound.
    """

    name: ClassVar[str] = "mmcr"
    requires: ClassVar[dict[str, str]] = {
        "z": "online.projection.scene: b v d",
        "t": "target.projection.scene: b v d",
    }
    couples_batch: ClassVar[bool] = True

    def __init__(self, dims: Dims, *, compression: Weight = 5e-3, normalise: bool = True) -> None:  # noqa: ARG002
        super().__init__()
        self.normalise = normalise
        self.loss = MMCRLoss(lmda=compression)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        """Compare online projections `z` and target projections `t`, both (b v d)."""
        z, t = (F.normalize(z, dim=-1), F.normalize(t, dim=-1)) if self.normalise else (z, t)
        loss: Tensor = self.loss(z, t)
        return loss
