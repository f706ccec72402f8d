"""Losses that compare assignments of views to prototypes: DINO, SwAV, MSN and PMSN."""

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
    Steps,
    Temperature,
    Weight,
    has_reached,
    is_frozen,
    mean,
    new_queue,
    require_queue,
    require_views,
)


def all_views(z: Tensor, local: Tensor | None) -> list[Tensor]:
    """List the global views `z` (b v d), then the local views (b m d): each (b d)."""
    return [*z.unbind(1), *(() if local is None else local.unbind(1))]


class Dino(Objective):
    """Predict the target's centred and sharpened assignment of each global view from every other view: DINO.

    DINO (arXiv 2104.14294, section 3.1, equations 2 to 4, algorithm 1), with lightly's DINOLoss: the cross-entropy of
    each of the target's global views with each other view, global or local, averaged. Use it with the head
    `lightly/dino`, whose outputs are the logits.

    The centre (1 1 d) is state: each forward pass updates it, so with `accumulate` it is updated more than once per
    step. The epoch is also state: the target's temperature changes only between epochs. With `warmup_steps` the step is
    state instead, and the temperature changes after every step.

    Args:
        target_temperature: Temperature of the target after the warm-up.
        first_target_temperature: Temperature of the target at the start.
        warmup_epochs: Epochs over which the target's temperature changes from the first to the final value.
        warmup_steps: The same in optimizer steps, instead of `warmup_epochs`.
        temperature: Temperature of the online network.
        centre_momentum: Weight of the old centre in each update.
    """

    name: ClassVar[str] = "dino"
    requires: ClassVar[dict[str, str]] = {
        "z": "online.projection.global: b v d",
        "t": "target.projection.global: b v d",
    }
    optional: ClassVar[dict[str, str]] = {"local": "online.projection.local: b m d"}
    couples_batch: ClassVar[bool] = True
    epoch: Tensor
    step: Tensor | None

    def __init__(
        self, dims: Dims, *, target_temperature: Temperature = 0.07, first_target_temperature: Temperature = 0.04,
        warmup_epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 30,
        warmup_steps: Steps = None, temperature: Temperature = 0.1,
        centre_momentum: Share = 0.9,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims, "v", "m")
        warmup = warmup_epochs if warmup_steps is None else warmup_steps
        self.loss = DINOLoss(
            dims["d"], first_target_temperature, target_temperature, warmup, temperature, centre_momentum
        )
        self.loss._center_fn = _batch_mean
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
        self.register_buffer("step", None if warmup_steps is None else torch.zeros((), dtype=torch.long))

    def forward(self, z: Tensor, t: Tensor, local: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compare online logits `z` (b v d) and `local` (b m d) with the target's, `t` (b v d)."""
        done = self.epoch if self.step is None else self.step
        loss: Tensor = self.loss(list(t.unbind(1)), all_views(z, local), epoch=None if done.is_meta else int(done))
        return loss

    def after_step(self, step: int, epoch: float) -> None:
        """Record epoch and step, for the temperature."""
        self.epoch.fill_(int(epoch))
        if self.step is not None:
            self.step.fill_(step)


def _batch_mean(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Average over `dim`; lightly also averages over ranks, but here each rank has the whole batch."""
    return torch.mean(x, dim=dim, keepdim=True)


class Swav(Objective):
    """Predict the balanced assignment of each global view to prototypes from every other view: SwAV.

    SwAV (arXiv 2006.09882, section 3, equations 1 to 6), with lightly's SwaVLoss. The objective normalises projections
    to length 1. The prototypes are parameters of the objective, without bias, normalised to length 1 after each step;
    while frozen, their gradient is zero.

    The queues (one per global view: queue d), if any, are state: each forward pass in training replaces their oldest
    entries with the projections of the whole batch, so with `accumulate` once per micro-batch. They are filled from the
    start, and used in the assignments from `queue_epoch` or `queue_step` on.

    Args:
        prototypes: Number of prototypes.
        temperature: Temperature of the predictions.
        epsilon: Weight of the entropy in the assignments.
        iterations: Sinkhorn updates of the assignments.
        freeze_epochs: Epochs for which the prototypes are frozen.
        freeze_steps: The same in optimizer steps, instead of `freeze_epochs`.
        queue: Entries of each queue; 0 for no queues.
        queue_epoch: First epoch in which the queues are used.
        queue_step: First step in which the queues are used, from 0, instead of `queue_epoch`.
    """

    name: ClassVar[str] = "swav"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.global: b v d"}
    optional: ClassVar[dict[str, str]] = {"local": "online.projection.local: b m d"}
    couples_batch: ClassVar[bool] = True
    epoch: Tensor
    step: Tensor | None

    def __init__(
        self, dims: Dims, *, prototypes: Count = 3000, temperature: Temperature = 0.1, epsilon: Temperature = 0.05,
        iterations: Count = 3, freeze_epochs: Epochs = 1.0, freeze_steps: Steps = None,
        queue: Annotated[int, Field(ge=0, le=10_000_000)] = 0, queue_epoch: Epochs = 15.0, queue_step: Steps = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims, "v", "m")
        if queue:
            require_queue(dims, queue)
        self.freeze_epochs, self.freeze_steps = freeze_epochs, freeze_steps
        self.queue_epoch, self.queue_step = queue_epoch, queue_step
        self.loss = SwaVLoss(temperature, iterations, epsilon)
        self.prototypes = nn.Linear(dims["d"], prototypes, bias=False)
        self.queues = _make_queues(dims["v"] if queue else 0, queue, dims["d"])
        self.register_buffer("epoch", torch.zeros(()))
        counts = freeze_steps is not None or queue_step is not None
        self.register_buffer("step", torch.zeros((), dtype=torch.long) if counts else None)
        self._normalise_prototypes()

    def forward(self, z: Tensor, local: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compare assignments of projections `z` (b v d) with predictions from them and from `local` (b m d)."""
        weight = self.prototypes.weight
        frozen = is_frozen(self.epoch, self.freeze_epochs, self.step, self.freeze_steps)
        weight = torch.where(frozen, weight.detach(), weight)
        normalised = [F.normalize(view, dim=1) for view in all_views(z, local)]
        scores = [view @ weight.T for view in normalised]
        v = z.shape[1]
        loss: Tensor = self.loss(scores[:v], scores[v:], self._enqueue(normalised[:v], weight))
        return loss.squeeze(0)

    @torch.no_grad()
    def _enqueue(self, views: list[Tensor], weight: Tensor) -> list[Tensor] | None:
        """Put the views into their queues; return the scores of the earlier entries, each (queue prototypes)."""
        update = views[0].requires_grad and not views[0].is_meta
        earlier = [queue(view, update=update)[1] for queue, view in zip(self.queues, views, strict=False)]
        if not earlier or not self._uses_queues():
            return None
        return [bank.T @ weight.T for bank in earlier]

    def _uses_queues(self) -> bool:
        if self.step is None or self.queue_step is None:
            return has_reached(self.epoch, self.queue_epoch)
        return has_reached(self.step, self.queue_step)

    def after_step(self, step: int, epoch: float) -> None:
        """Normalise the prototypes to length 1, and record epoch and step."""
        self._normalise_prototypes()
        self.epoch.fill_(epoch)
        if self.step is not None:
            self.step.fill_(step)

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))


def _make_queues(count: int, size: int, dim: int) -> nn.ModuleList:
    return nn.ModuleList(new_queue(size, dim) for _ in range(count))


class Msn(Objective):
    """Predict the target's assignment of a view to evenly used prototypes from other views: MSN without masks.

    MSN (arXiv 2204.07141, section 3), with lightly's MSNLoss. The first global view is the target's;
    the other global views and the local ("focal") views are anchors. The paper masks patches of its anchors. This
    objective does not, because masks belong to the backbone.

    The prototypes are parameters of the objective; gradients reach them through the anchors.

    Args:
        prototypes: Number of prototypes.
        temperature: Temperature of both networks' assignments.
        sharpening: Temperature that sharpens the target's assignments.
        iterations: Sinkhorn updates of the target's assignments; 0 for none.
        evenness: lambda, weight of the mean entropy (MSN) or of the divergence from the prior (PMSN).
        symmetric: Use every global view as the target's in turn, and average.
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
        iterations: Annotated[int, Field(ge=0, le=1_000_000)] = 3, evenness: Weight = 1.0, symmetric: bool = False,
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
        return mean([self._loss_for_target(t[:, i], [*online[:i], *online[i + 1 :]]) for i in targets])

    def _loss_for_target(self, target: Tensor, anchors: list[Tensor]) -> Tensor:
        loss: Tensor = self.loss(torch.cat(anchors), target, self.prototypes.weight, self.sharpening)
        return loss


class Pmsn(Msn):
    """Predict the target's assignment of a view to prototypes with power-law usage from other views: PMSN.

    PMSN (arXiv 2210.07277), with lightly's PMSNCustomLoss and the power law of its PMSNLoss
    (which warns in each step). Otherwise it is the same as `lightly/msn`, also without masks.

    Args:
        prototypes: Number of prototypes.
        temperature: Temperature of both networks' assignments.
        sharpening: Temperature that sharpens the target's assignments.
        iterations: Sinkhorn updates of the target's assignments; 0 for none.
        evenness: lambda, weight of the divergence from the prior.
        exponent: Exponent of the prior: the k-th prototype is used k^-exponent times as often as the first.
        symmetric: Use every global view as the target's in turn, and average.
    """

    name: ClassVar[str] = "pmsn"

    def __init__(
        self, dims: Dims, *, prototypes: Count = 1024, temperature: Temperature = 0.1, sharpening: Temperature = 0.25,
        iterations: Annotated[int, Field(ge=0, le=1_000_000)] = 3, evenness: Weight = 1.0, exponent: Weight = 0.25,
        symmetric: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            dims, prototypes=prototypes, temperature=temperature, sharpening=sharpening, iterations=iterations,
            evenness=evenness, symmetric=symmetric,
        )  # fmt: skip
        self.exponent = exponent
        self.loss = PMSNCustomLoss(self.prior, temperature, iterations, evenness)

    def prior(self, usage: Tensor) -> Tensor:
        """Return the required usage of each prototype: shape (n), like `usage`."""
        law = torch.arange(1, len(usage) + 1, device=usage.device) ** -self.exponent
        return law / law.sum()
