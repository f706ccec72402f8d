"""Lightly's heads that are more than plain layers: DINO's head, and heads on maps."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from lightly.models.modules import heads as lightly_heads
from torch import Tensor, nn

from sslkit.api import Dims, Head
from sslkit_lightly.heads import LightlyHead
from sslkit_lightly.shared import Count, Epochs, Steps, ignore_warnings, is_frozen


class UnitLinear(nn.Module):
    """A linear layer without bias whose rows are unit directions times lengths: weight normalisation.

    Lightly uses `torch.nn.utils.weight_norm`, which is deprecated and cannot be copied for a target network.

    Args:
        weight: Initial directions (out d), of any length.
        learn_length: Train the lengths too; they start at 1.
    """

    def __init__(self, weight: Tensor, learn_length: bool) -> None:
        super().__init__()
        self.direction = nn.Parameter(weight.detach().clone())
        self.length = nn.Parameter(torch.ones(len(weight), 1)) if learn_length else None

    def forward(self, x: Tensor, frozen: Tensor) -> Tensor:
        """Map (n d) to (n out); the weight's gradient is zero if `frozen` (a scalar) is true."""
        weight = F.normalize(self.direction, dim=1)
        weight = weight if self.length is None else self.length * weight
        return F.linear(x, torch.where(frozen, weight.detach(), weight))


class DinoHead(Head):
    """DINO's head: three layers to a low-dimensional unit vector, and a weight-normalised layer to the logits.

    Lightly's DINOProjectionHead (arXiv 2104.14294, section 3.1 and appendix C). Its last layer is frozen at the
    start by a gradient of zero; lightly drops the gradient instead. The optimizer's momentum stays zero as well,
    and weight decay changes only the length of directions, which has no effect.

    Args:
        hidden: Width of the hidden layers.
        bottleneck: Width of the unit vector.
        out: Number of logits.
        batch_norm: Use batch norm in hidden layers.
        freeze_epochs: Epochs for which the last layer is frozen.
        freeze_steps: The same in optimizer steps, instead of `freeze_epochs`.
        norm_last_layer: Keep the rows of the last layer at length 1.
    """

    name: ClassVar[str] = "dino"
    epoch: Tensor
    step: Tensor | None

    def __init__(
        self, dims: Dims, *, hidden: Count = 2048, bottleneck: Count = 256, out: Count = 65536,
        batch_norm: bool = False, freeze_epochs: Epochs = 1.0, freeze_steps: Steps = None,
        norm_last_layer: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.out_dim = out
        self.freeze_epochs = freeze_epochs
        self.freeze_steps = freeze_steps
        with ignore_warnings("`torch.nn.utils.weight_norm` is deprecated"):
            head = lightly_heads.DINOProjectionHead(dims["d"], hidden, bottleneck, out, batch_norm)
        self.layers = head.layers
        self.last = UnitLinear(head.last_layer.weight_v, learn_length=not norm_last_layer)
        self.register_buffer("epoch", torch.zeros(()))
        self.register_buffer("step", None if freeze_steps is None else torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n d) to logits (n out)."""
        y: Tensor = self.last(F.normalize(self.layers(x), dim=-1), self.frozen)
        return y

    @property
    def frozen(self) -> Tensor:
        """Whether the last layer is frozen, a scalar."""
        return is_frozen(self.epoch, self.freeze_epochs, self.step, self.freeze_steps)

    def after_step(self, step: int, epoch: float) -> None:
        """Record epoch and step, which decide whether the last layer is frozen."""
        self.epoch.fill_(epoch)
        if self.step is not None:
            self.step.fill_(step)


class DenseHead(LightlyHead):
    """A lightly head, applied to every cell of a map."""

    takes: ClassVar[str] = "map"
    gives: ClassVar[str] = "d h w"

    def forward(self, x: Tensor) -> Tensor:
        """Map (n d h w) to (n out h w)."""
        y: Tensor = self.net(x.movedim(1, -1)).movedim(-1, 1)
        return y


class DenseClHead(DenseHead):
    """DenseCL's projector of maps: two layers, cell by cell.

    Lightly's DenseCLProjectionHead (arXiv 2011.09157, section 3.2). The head of DenseCL's global part is
    `lightly/moco`, which has the same two layers.

    Args:
        hidden: Width of the hidden layer.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "densecl"

    def __init__(self, dims: Dims, *, hidden: Count = 2048, out: Count = 128) -> None:
        super().__init__(lightly_heads.DenseCLProjectionHead(dims["d"], hidden, out), out)


class VicRegLHead(DenseHead):
    """VICRegL's local expander: three layers with layer norm, cell by cell.

    Lightly's VicRegLLocalProjectionHead (arXiv 2210.01571). The head of VICRegL's global part is
    `lightly/vicreg`.

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "vicregl"

    def __init__(self, dims: Dims, *, hidden: Count = 8192, out: Count = 8192) -> None:
        super().__init__(lightly_heads.VicRegLLocalProjectionHead(dims["d"], hidden, out), out)
