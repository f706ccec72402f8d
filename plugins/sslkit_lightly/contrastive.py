"""Contrastive losses: attract views of one image, repel views of other images."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from lightly.loss import DCLLoss, DirectCLRLoss, MACLLoss, NTXentLoss
from lightly.loss.hypersphere_loss import HypersphereLoss
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from torch import Tensor, nn

from sslkit.api import Dims, Objective
from sslkit_lightly.shared import (
    Count,
    Share,
    Temperature,
    Weight,
    directions,
    make_persistent,
    mean_over_directions,
    mean_over_pairs,
    require_queue,
    require_views,
    stack_pairs,
    stand_in_loss,
)


class PairObjective(Objective):
    """A symmetric lightly loss on the projections of two views, averaged over the pairs of views."""

    requires: ClassVar[dict[str, str]] = {"z": "online.projection.scene: b v d"}
    couples_batch: ClassVar[bool] = True

    def __init__(self, dims: Dims, loss: nn.Module) -> None:
        super().__init__()
        require_views(dims)
        self.loss = loss

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare the projections `z` (b v d) of each pair of views."""
        return mean_over_pairs(self.pair, z)

    def pair(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare two views, both (b d)."""
        if a.is_meta:
            both = torch.cat([a, b])
            return stand_in_loss(both, both)
        loss: Tensor = self.loss(a, b)
        return loss


class SimClr(PairObjective):
    """Distinguish the other view of an image from all other views of the batch: SimCLR's NT-Xent.

    SimCLR (arXiv 2002.05709, section 2.1, equation 1), averaged over the pairs of views. With two views it
    equals lightly's NTXentLoss.

    Args:
        temperature: Temperature of the similarities.
    """

    name: ClassVar[str] = "simclr"

    def __init__(self, dims: Dims, *, temperature: Temperature = 0.5) -> None:
        super().__init__(dims, NTXentLoss(temperature=temperature))


class DirectClr(PairObjective):
    """NT-Xent on the first entries of the backbone's features, without a projector: DirectCLR.

    DirectCLR (arXiv 2110.09348), averaged over the pairs of views. With two views it equals lightly's DirectCLRLoss.

    Args:
        size: Number of entries of the features to use (the paper's d_0).
        temperature: Temperature of the similarities.
    """

    name: ClassVar[str] = "directclr"
    requires: ClassVar[dict[str, str]] = {"z": "online.features.scene: b v f"}

    def __init__(self, dims: Dims, *, size: Count = 360, temperature: Temperature = 0.1) -> None:
        super().__init__(dims, DirectCLRLoss(loss_dim=size, temperature=temperature))
        if size > dims["f"]:
            raise ValueError(f"size = {size}, but the backbone's features have {dims['f']} entries")


class Dcl(PairObjective):
    """NT-Xent without the positive pair in the denominator: decoupled contrastive learning.

    DCL (arXiv 2110.06848, equation 6), averaged over the pairs of views. With two views it equals lightly's
    DCLLoss.

    Args:
        temperature: Temperature of the similarities.
    """

    name: ClassVar[str] = "dcl"

    def __init__(self, dims: Dims, *, temperature: Temperature = 0.1) -> None:
        super().__init__(dims, DCLLoss(temperature=temperature))


class Dclw(PairObjective):
    """Decoupled contrastive learning that gives more weight to positive pairs that are still far apart.

    DCLW (arXiv 2110.06848, section 3), averaged over the pairs of views. With two views it equals lightly's
    DCLWLoss, whose weights are restated here, because lightly's warn in each step.

    Args:
        temperature: Temperature of the similarities.
        sigma: Temperature of the von Mises-Fisher weights.
    """

    name: ClassVar[str] = "dclw"

    def __init__(self, dims: Dims, *, temperature: Temperature = 0.1, sigma: Temperature = 0.5) -> None:
        super().__init__(dims, DCLLoss(temperature=temperature, weight_fn=self.weights))
        self.sigma = sigma

    def weights(self, a: Tensor, b: Tensor) -> Tensor:
        """Return 2 - softmax(cos / sigma) / mean(softmax(cos / sigma)), for unit vectors (b d): shape (b)."""
        similarity = torch.einsum("nm,nm->n", a.detach(), b.detach()) / self.sigma
        return 2 - a.shape[0] * F.softmax(similarity, dim=0)


class Macl(PairObjective):
    """NT-Xent whose temperature depends on how well views are aligned: model-aware contrastive learning.

    MACL (arXiv 2207.07874), averaged over the pairs of views. With two views it equals lightly's MACLLoss.

    Args:
        temperature: tau_0, the temperature at the alignment `alignment`.
        alpha: How strongly the temperature depends on the alignment.
        alignment: A_0, the mean cosine of positive pairs at which the temperature is tau_0.
    """

    name: ClassVar[str] = "macl"

    def __init__(
        self, dims: Dims, *, temperature: Temperature = 0.1, alpha: Share = 0.5, alignment: Share = 0.0
    ) -> None:
        super().__init__(dims, MACLLoss(temperature=temperature, alpha=alpha, A_0=alignment))


class Hypersphere(PairObjective):
    """Alignment of views and uniformity on the unit sphere.

    Wang and Isola (arXiv 2005.10242, section 4), averaged over the pairs of views. With two views it equals
    lightly's HypersphereLoss, whose defaults it has (the paper mostly uses t = 2).

    Args:
        t: The t of the Gaussian kernel exp(-t |x - y|^2) that measures uniformity.
        uniformity: Weight of the uniformity term.
        alpha: Power of the distance in the alignment term.
    """

    name: ClassVar[str] = "hypersphere"

    def __init__(self, dims: Dims, *, t: Temperature = 1.0, uniformity: Weight = 1.0, alpha: Temperature = 2.0) -> None:
        super().__init__(dims, HypersphereLoss(t=t, lam=uniformity, alpha=alpha))


class MoCo(Objective):
    """Distinguish an image's key from a queue of keys of past images: MoCo v2.

    MoCo (arXiv 1911.05722, section 3.1, equation 1; v2: 2003.04297) with lightly's NTXentLoss and its memory bank. The
    first view is the query and the other views are keys, from the target network, as in the paper. With `symmetric`
    every view is the query in turn, as in later code of the authors, and all are compared with the same queue.

    The queue (queue d) is state. It starts as random unit vectors, as in the paper's code. Each forward pass in
    training replaces its oldest entries with the keys of the whole batch (with v views, v - 1 times each if
    `symmetric`), so with `accumulate` once per micro-batch. Batches are not shuffled over ranks: rows are gathered, and
    the recipe configures batch norm.

    Args:
        queue: Entries of the queue.
        temperature: Temperature of the similarities.
        symmetric: Average over all ordered pairs of views.
    """

    name: ClassVar[str] = "moco"
    requires: ClassVar[dict[str, str]] = {
        "q": "online.projection.scene: b v d",
        "k": "target.projection.scene: b v d",
    }
    couples_batch: ClassVar[bool] = True

    def __init__(
        self, dims: Dims, *, queue: Count = 65536, temperature: Temperature = 0.2, symmetric: bool = False
    ) -> None:
        super().__init__()
        require_views(dims)
        require_queue(dims, queue, len(directions(dims["v"], symmetric)))
        self.symmetric = symmetric
        self.loss = NTXentLoss(temperature=temperature, memory_bank_size=(queue, dims["d"]))
        make_persistent(self.loss.memory_bank)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        """Compare online projections `q` with target projections `k`, both (b v d), and with the queue."""
        query, key = stack_pairs(q, k, self.symmetric)
        if query.is_meta:
            return stand_in_loss(query, self.loss.memory_bank.bank)
        loss: Tensor = self.loss(query, key)
        return loss


class MoCoV3(Objective):
    """Predict an image's key and distinguish it from the other keys of the batch: MoCo v3.

    MoCo v3 (arXiv 2104.02057, section 3, equation 1 and algorithm 1): 2 tau times the cross-entropy of q k / tau over
    the keys of the batch, summed over both directions; with v views, twice the mean over ordered pairs. Lightly has the
    heads of MoCo v3 but no such loss (its NTXentLoss also contrasts queries with queries), so it is implemented here.

    Args:
        temperature: Temperature of the similarities.
    """

    name: ClassVar[str] = "moco-v3"
    requires: ClassVar[dict[str, str]] = {
        "q": "online.prediction.scene: b v d",
        "k": "target.projection.scene: b v d",
    }
    couples_batch: ClassVar[bool] = True

    def __init__(self, dims: Dims, *, temperature: Temperature = 0.2) -> None:
        super().__init__()
        require_views(dims)
        self.temperature = temperature

    def forward(self, q: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        """Compare online predictions `q` with target projections `k`, both (b v d)."""
        return 2 * mean_over_directions(self.pair, F.normalize(q, dim=-1), F.normalize(k, dim=-1))

    def pair(self, q: Tensor, k: Tensor) -> Tensor:
        """Return 2 tau times the cross-entropy of unit vectors, both (b d)."""
        labels = torch.arange(q.shape[0], device=q.device)
        return 2 * self.temperature * F.cross_entropy(q @ k.T / self.temperature, labels)


class Nnclr(Objective):
    """Predict from each view the past projection that is nearest to another view's projection: NNCLR.

    NNCLR (arXiv 2104.14548, section 3), averaged over ordered pairs of views. With two views it equals lightly's
    example, 0.5 (L(nn(z_0), p_1) + L(nn(z_1), p_0)) with its NTXentLoss, which also contrasts neighbours with
    neighbours and predictions with predictions.

    The queue of neighbours (queue d) is state. Each forward pass in training replaces its oldest entries with the
    projections of the last view of the whole batch, so with `accumulate` once per micro-batch.

    Args:
        queue: Entries of the queue of neighbours.
        temperature: Temperature of the similarities.
    """

    name: ClassVar[str] = "nnclr"
    requires: ClassVar[dict[str, str]] = {
        "p": "online.prediction.scene: b v d",
        "z": "online.projection.scene: b v d",
    }
    couples_batch: ClassVar[bool] = True

    def __init__(self, dims: Dims, *, queue: Count = 98304, temperature: Temperature = 0.1) -> None:
        super().__init__()
        require_views(dims)
        require_queue(dims, queue)
        self.loss = NTXentLoss(temperature=temperature)
        self.neighbours = NNMemoryBankModule(size=(queue, dims["d"]))
        make_persistent(self.neighbours)

    def forward(self, p: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare predictions `p` with neighbours of projections `z` of the same network, both (b v d)."""
        if p.is_meta:
            return stand_in_loss(z.detach().flatten(0, 1), self.neighbours.bank) + stand_in_loss(
                p.flatten(0, 1), p.flatten(0, 1)
            )
        v = z.shape[1]
        neighbours = [self.neighbours(z[:, i].detach(), update=p.requires_grad and i == v - 1) for i in range(v)]
        return mean_over_directions(self.loss, torch.stack(neighbours, dim=1), p)
