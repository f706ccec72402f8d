"""Losses between assignments of views to prototypes: DINO, SwAV, MSN and PMSN."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, MSNLoss, PMSNCustomLoss, SwaVLoss
from pydantic import Field
from torch import Tensor, nn

from sslkit.api import Dims, Objective
from sslkit_lightly.shared import (
    Count,
    Epochs,
    Share,
    Temperature,
    Weight,
    has_reached,
    mean,
    new_queue,
    require_queue,
    require_views,
)


def all_views(z: Tensor, local: Tensor | None) -> list[Tensor]:
    """List global views of `z` (b v d), and local ones (b m d) behind them: each (b d)."""
    return [*z.unbind(1), *(() if local is None else local.unbind(1))]


class Dino(Objective):
    """Predict the target's assignment of each global view from every other view, centred and sharpened: DINO.

    DINO (arXiv 2104.14294, section 3.1, equations 2 to 4, algorithm 1), by lightly's DINOLoss: the cross-entropy of
    each of the target's global views with each other view, global or local, averaged. Use it with head `lightly/dino`,
    whose outputs are the logits.

    The centre (1 1 d) is state: each forward pass moves it, so with `accumulate` more than once a step. So is the
    epoch: the target's temperature rises in whole epochs.

    Args:
        target_temperature: Of the target, after the warm-up.
        first_target_temperature: Of the target, at the start.
        warmup_epochs: Epochs over which one becomes the other.
        temperature: Of the online network.
        centre_momentum: Share of the old centre that is kept in each pass.
    """

    name: ClassVar[str] = "dino"
    requires: ClassVar[dict[str, str]] = {
        "z": "online.projection.global: b v d",
        "t": "target.projection.global: b v d",
    }
    optional: ClassVar[dict[str, str]] = {"local": "online.projection.local: b m d"}
    couples_batch: ClassVar[bool] = True
    epoch: Tensor

    def __init__(
        self, dims: Dims, *, target_temperature: Temperature = 0.07, first_target_temperature: Temperature = 0.04,
        warmup_epochs: Annotated[int, Field(ge=0)] = 30, temperature: Temperature = 0.1, centre_momentum: Share = 0.9,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims, "v", "m")
        self.loss = DINOLoss(
            dims["d"], first_target_temperature, target_temperature, warmup_epochs, temperature, centre_momentum
        )
        self.loss._center_fn = _batch_mean
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))

    def forward(self, z: Tensor, t: Tensor, local: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compare online logits `z` (b v d) and `local` (b m d) with the target's, `t` (b v d)."""
        epoch = None if self.epoch.is_meta else int(self.epoch)
        loss: Tensor = self.loss(list(t.unbind(1)), all_views(z, local), epoch=epoch)
        return loss

    def after_step(self, step: int, epoch: float) -> None:  # noqa: ARG002
        """Keep the epoch, for the temperature."""
        self.epoch.fill_(int(epoch))


def _batch_mean(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Average over `dim`; lightly's own also averages over ranks, which already hold the whole batch."""
    return torch.mean(x, dim=dim, keepdim=True)


class Swav(Objective):
    """Predict the balanced assignment of each global view to prototypes from every other view: SwAV.

    SwAV (arXiv 2006.09882, section 3, equations 1 to 6), by lightly's SwaVLoss. Projections are brought to length 1
    here. The prototypes are parameters of the objective, without bias, brought to length 1 after each step; while
    frozen they get a gradient of zero.

    The queues (one per global view: queue d), if any, are state: each training pass replaces their oldest entries by
    the projections of the whole batch, so with `accumulate` once per pass. They are filled from the start, and take
    part in the assignments from epoch `queue_epoch` on.

    Args:
        prototypes: Number of prototypes.
        temperature: Of the predictions.
        epsilon: Weight of the entropy in the assignments.
        iterations: Sinkhorn updates of the assignments.
        freeze_epochs: Epochs in which the prototypes stay as they are.
        queue: Entries of each queue; 0 for none.
        queue_epoch: Epoch from which the queues are used.
    """

    name: ClassVar[str] = "swav"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.global: b v d"}
    optional: ClassVar[dict[str, str]] = {"local": "online.projection.local: b m d"}
    couples_batch: ClassVar[bool] = True
    epoch: Tensor

    def __init__(
        self, dims: Dims, *, prototypes: Count = 3000, temperature: Temperature = 0.1, epsilon: Temperature = 0.05,
        iterations: Count = 3, freeze_epochs: Epochs = 1.0, queue: Annotated[int, Field(ge=0)] = 0,
        queue_epoch: Epochs = 15.0,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims, "v", "m")
        if queue:
            require_queue(dims, queue)
        self.freeze_epochs = freeze_epochs
        self.queue_epoch = queue_epoch
        self.loss = SwaVLoss(temperature, iterations, epsilon)
        self.prototypes = nn.Linear(dims["d"], prototypes, bias=False)
        self.queues = _queues(dims["v"] if queue else 0, queue, dims["d"])
        self.register_buffer("epoch", torch.zeros(()))
        self._normalise()

    def forward(self, z: Tensor, local: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compare assignments of projections `z` (b v d) with predictions from them and from `local` (b m d)."""
        weight = self.prototypes.weight
        weight = torch.where(self.epoch < self.freeze_epochs, weight.detach(), weight)
        found = [F.normalize(view, dim=1) for view in all_views(z, local)]
        scores = [view @ weight.T for view in found]
        v = z.shape[1]
        loss: Tensor = self.loss(scores[:v], scores[v:], self._queued(found[:v], weight))
        return loss.squeeze(0)

    @torch.no_grad()
    def _queued(self, found: list[Tensor], weight: Tensor) -> list[Tensor] | None:
        """Put the views into their queues; return the scores of what was in there before, each (queue prototypes)."""
        update = found[0].requires_grad and not found[0].is_meta
        before = [queue(view, update=update)[1] for queue, view in zip(self.queues, found, strict=False)]
        if not before or not has_reached(self.epoch, self.queue_epoch):
            return None
        return [bank.T @ weight.T for bank in before]

    def after_step(self, step: int, epoch: float) -> None:  # noqa: ARG002
        """Bring the prototypes back to length 1, and keep the epoch."""
        self._normalise()
        self.epoch.fill_(epoch)

    @torch.no_grad()
    def _normalise(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))


def _queues(count: int, size: int, dim: int) -> nn.ModuleList:
    return nn.ModuleList(new_queue(size, dim) for _ in range(count))


class Msn(Objective):
    """Predict the target's assignment of a view to prototypes from other views, used evenly: MSN without masks.

    MSN (arXiv 2204.07141, section 3), by lightly's MSNLoss. The first global view is the target's;
    the other global views and the local ("focal") views are anchors. The paper hides patches of its anchors: this
    objective does not, because masks belong to a backbone.

    The prototypes are parameters of the objective; gradients reach them through the anchors.

    Args:
        prototypes: Number of prototypes.
        temperature: Of both networks' assignments.
        sharpening: Temperature that the target's assignments are sharpened with.
        iterations: Sinkhorn updates of the target's assignments; 0 for none.
        evenness: lambda, weight of the mean entropy (MSN) or of the divergence from the prior (PMSN).
        symmetric: Let every global view be the target's once, in turn, and average.
    """

    name: ClassVar[str] = "msn"
    requires: ClassVar[dict[str, str]] = {
        "z": "online.projection.global: b v d",
        "t": "target.projection.global: b v d",
    }
    optional: ClassVar[dict[str, str]] = {"local": "online.projection.local: b m d"}
    couples_batch: ClassVar[bool] = True

    def __init__(
        self, dims: Dims, *, prototypes: Count = 1024, temperature: Temperature = 0.1, sharpening: Temperature = 0.25,
        iterations: Annotated[int, Field(ge=0)] = 3, evenness: Weight = 1.0, symmetric: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims, "v", "m")
        self.sharpening = sharpening
        self.symmetric = symmetric
        self.prototypes = nn.Linear(dims["d"], prototypes, bias=False)
        self.loss: Any = MSNLoss(temperature, iterations, evenness)

    def forward(self, z: Tensor, t: Tensor, local: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compare online projections `z` (b v d) and `local` (b m d) with the target's, `t` (b v d)."""
        online = all_views(z, local)
        targets = range(z.shape[1]) if self.symmetric else (0,)
        return mean([self._against(t[:, i], [*online[:i], *online[i + 1 :]]) for i in targets])

    def _against(self, target: Tensor, anchors: list[Tensor]) -> Tensor:
        loss: Tensor = self.loss(torch.cat(anchors), target, self.prototypes.weight, self.sharpening)
        return loss


class Pmsn(Msn):
    """Predict the target's assignment of a view to prototypes from other views, used by a power law: PMSN.

    PMSN (arXiv 2210.07277), by lightly's PMSNCustomLoss with the power law of its PMSNLoss
    (which warns in each step). Else as `lightly/msn`, without masks too.

    Args:
        prototypes: Number of prototypes.
        temperature: Of both networks' assignments.
        sharpening: Temperature that the target's assignments are sharpened with.
        iterations: Sinkhorn updates of the target's assignments; 0 for none.
        evenness: lambda, weight of the divergence from the prior.
        exponent: Of the prior: the k-th prototype is used k^-exponent as often as the first.
        symmetric: Let every global view be the target's once, in turn, and average.
    """

    name: ClassVar[str] = "pmsn"

    def __init__(
        self, dims: Dims, *, prototypes: Count = 1024, temperature: Temperature = 0.1, sharpening: Temperature = 0.25,
        iterations: Annotated[int, Field(ge=0)] = 3, evenness: Weight = 1.0, exponent: Weight = 0.25,
        symmetric: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            dims, prototypes=prototypes, temperature=temperature, sharpening=sharpening, iterations=iterations,
            evenness=evenness, symmetric=symmetric,
        )  # fmt: skip
        self.exponent = exponent
        self.loss = PMSNCustomLoss(self.prior, temperature, iterations, evenness)

    def prior(self, used: Tensor) -> Tensor:
        """Return how often each prototype is to be used: shape (n), like `used`."""
        law = torch.arange(1, len(used) + 1, device=used.device) ** -self.exponent
        return law / law.sum()
