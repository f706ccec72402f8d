"""Losses on the cells of feature maps: the dense parts of VICRegL and DenseCL."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from lightly.loss import NTXentLoss, VICRegLLoss
from lightly.models.utils import select_most_similar
from pydantic import Field
from torch import Tensor

from sslkit.api import Dims, Objective
from sslkit_lightly.shared import Count, Temperature, Weight, directions, make_persistent, require_views, stand_in_loss


def cell_centres(boxes: Tensor, flipped: Tensor, h: int, w: int) -> Tensor:
    """Return the centre of each cell of a map, in its image.

    Args:
        boxes: Boxes of the views, xyxy pixels, (... 4).
        flipped: Whether the views are mirrored left to right, (...).
        h: Height of the map.
        w: Width of the map.

    Returns:
        x and y in pixels of the image: (... h w 2).
    """
    across = (torch.arange(w, device=boxes.device, dtype=boxes.dtype) + 0.5) / w
    down = (torch.arange(h, device=boxes.device, dtype=boxes.dtype) + 0.5) / h
    across = torch.where(flipped[..., None] > 0.5, 1 - across, across)
    left, top, right, bottom = boxes[..., None].unbind(-2)
    x, y = left + across * (right - left), top + down * (bottom - top)
    return torch.stack([x[..., None, :].expand(*x.shape[:-1], h, w), y[..., None].expand(*y.shape[:-1], h, w)], -1)


class VicRegL(Objective):
    """Apply VICReg to matching cells of two views' maps: the local part of VICRegL.

    VICRegL (arXiv 2210.01571, section 3), with lightly's VICRegLLoss and alpha = 0. Cells match by their position
    in the image and by their embeddings, and only the best matches count. The loss is averaged over ordered pairs of
    views.
    Lightly's full loss is alpha times `lightly/vicreg` with `covariance = 0.5`, on a second head, plus (1 - alpha)
    times this one. The position of a cell is computed from the view's box and flip; lightly's transform puts cells too
    far apart by one part in h.

    Args:
        invariance: lambda, weight of the squared distances.
        variance: mu, weight of the hinge loss on standard deviations.
        covariance: nu, weight of the squared covariances, which lightly halves here.
        matches: Number of best matches that count, from one view to the other and the reverse.
        eps: Added to variances.
    """

    name: ClassVar[str] = "vicregl"
    requires: ClassVar[dict[str, str]] = {
        "z": "online.projection.scene: b v d h w",
        "boxes": "batch.boxes.scene: b v 4",
        "flipped": "batch.flipped.scene: b v",
    }
    couples_batch: ClassVar[bool] = True

    def __init__(
        self, dims: Dims, *, invariance: Weight = 25.0, variance: Weight = 25.0, covariance: Weight = 1.0,
        matches: tuple[Count, Count] = (20, 4), eps: Annotated[float, Field(gt=0)] = 1e-4,
    ) -> None:  # fmt: skip
        super().__init__()
        require_views(dims)
        self.loss = VICRegLLoss(invariance, variance, covariance, alpha=0.0, eps=eps, num_matches=matches)

    def forward(self, z: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:  # type: ignore[override]
        """Compare projected maps `z` (b v d h w) of views with `boxes` (b v 4) and `flipped` (b v)."""
        if z.is_meta:
            return stand_in_loss(z.flatten(3).flatten(0, 2).T, z.flatten(3).flatten(0, 2).T)
        grids = cell_centres(boxes.to(z.dtype), flipped, *z.shape[-2:])
        maps = z.movedim(2, -1).unbind(1)
        embeddings = [(z.new_zeros(z.shape[0], 1), each) for each in maps]  # global ones are unused: alpha is 0
        loss: Tensor = self.loss(embeddings, list(grids.unbind(1)))
        return loss.squeeze(0)


class DenseCl(Objective):
    """Distinguish a cell's key from a queue of keys of past cells: the dense part of DenseCL.

    DenseCL (arXiv 2011.09157, section 3.3, equation 2), with lightly's NTXentLoss and its memory bank. A cell of
    the query matches the cell of the key with the most similar backbone features (section 3.4). The global part is
    `lightly/moco` on a second head; the paper weights both by 0.5. The first view is the query, the others are keys.

    The queue (queue d) is state, as in `lightly/moco`. It stores cells, as lightly's does; the authors' code stores the
    mean over each map instead.

    Args:
        queue: Entries of the queue.
        temperature: Temperature of the similarities.
        symmetric: Average over all ordered pairs of views.
    """

    name: ClassVar[str] = "densecl"
    requires: ClassVar[dict[str, str]] = {
        "q": "online.projection.scene: b v d h w",
        "k": "target.projection.scene: b v d h w",
        "q_map": "online.map.scene: b v f h w",
        "k_map": "target.map.scene: b v f h w",
    }
    couples_batch: ClassVar[bool] = True

    def __init__(
        self, dims: Dims, *, queue: Count = 65536, temperature: Temperature = 0.2, symmetric: bool = False
    ) -> None:
        super().__init__()
        require_views(dims)
        self.symmetric = symmetric
        self.loss = NTXentLoss(temperature=temperature, memory_bank_size=(queue, dims["d"]))
        make_persistent(self.loss.memory_bank)

    def forward(self, q: Tensor, k: Tensor, q_map: Tensor, k_map: Tensor) -> Tensor:  # type: ignore[override]
        """Compare projected maps of both networks (b v d h w), matched by their feature maps (b v f h w)."""
        q, k, q_map, k_map = (row.flatten(3).transpose(2, 3) for row in (q, k, q_map.detach(), k_map))
        pairs = directions(q.shape[1], self.symmetric)
        query = torch.cat([q[:, i].flatten(0, 1) for i, _ in pairs])
        if query.is_meta:
            return stand_in_loss(query, self.loss.memory_bank.bank)
        keys = [select_most_similar(q_map[:, i], k_map[:, j], k[:, j]).flatten(0, 1) for i, j in pairs]
        loss: Tensor = self.loss(query, torch.cat(keys))
        return loss
