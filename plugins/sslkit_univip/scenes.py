"""UniVIP's objectives that predict scenes, from another scene or from the instances."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sslkit.api import Dims, Objective
from sslkit.nn import cosine_similarity, full_precision, widen

PairLoss = Literal["negative-cosine", "squared-distance"]
"""`-cos` as the paper prints it, or `2 - 2 cos` as in BYOL's and ORL's code: twice that plus a constant."""


def pair_loss(cosines: Tensor, kind: PairLoss) -> Tensor:
    """Convert cosines to losses, elementwise: L(x1, x2) of UniVIP, section 3."""
    return -cosines if kind == "negative-cosine" else 2 - 2 * cosines


class SceneScene(Objective):
    """Predict each scene's target projection from every other scene: UniVIP's scene-to-scene term, and BYOL's loss.

    L_scene = L(s1, s2) + L(s2, s1) with L(x1, x2) = -cos(p(x1), z(x2)), averaged over the batch. With v scenes it is
    twice the mean over the v (v - 1) ordered pairs of different scenes: the paper's sum at v = 2, and the same range,
    [-2, 2], at any v.

    Args:
        pair_loss: `negative-cosine` (the paper's) or `squared-distance` (2 - 2 cos, BYOL's and ORL's).
    """

    name: ClassVar[str] = "scene-scene"
    requires: ClassVar[dict[str, str]] = {
        "p": "online.prediction.scene: b v d",
        "z": "target.projection.scene: b v d",
    }

    def __init__(self, dims: Dims, *, pair_loss: PairLoss = "negative-cosine") -> None:
        super().__init__()
        if dims["v"] < 2:
            raise ValueError(f"needs two views or more, to predict one from another; got {dims['v']}")
        self.pair_loss = pair_loss

    def forward(self, p: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare online predictions `p` with target projections `z`, both (b v d)."""
        losses = pair_loss(cosine_similarity(p.unsqueeze(2), z.unsqueeze(1)), self.pair_loss).mean(0)
        v = losses.shape[0]
        return 2 * (losses.sum() - losses.trace()) / (v * (v - 1))


class SceneInstance(Objective):
    """Predict each scene's target projection from all of its instances together: UniVIP's scene-to-instance term.

    L_si = L_aff(s1, I) + L_aff(s2, I) with L_aff(s, I) = -cos(I, z(s)) and I = f_linear(concat(o_1, ..., o_k)),
    averaged over the batch; with v scenes, twice the mean over them. The o_k are online predictions in the order of
    the boxes; f_linear is one linear layer from k d to d, online only; no predictor follows I.

    Args:
        pair_loss: `negative-cosine` (the paper's) or `squared-distance` (2 - 2 cos).
        bias: Use a bias in the linear layer; the paper does not say.
    """

    name: ClassVar[str] = "scene-instance"
    requires: ClassVar[dict[str, str]] = {
        "instances": "online.prediction.instance: b k d",
        "z": "target.projection.scene: b v d",
    }

    def __init__(self, dims: Dims, *, pair_loss: PairLoss = "negative-cosine", bias: bool = True) -> None:
        super().__init__()
        self.pair_loss = pair_loss
        self.fuser = nn.Linear(dims["k"] * dims["d"], dims["d"], bias=bias)

    def forward(self, instances: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """Compare fused online predictions of `instances` (b k d) with target projections of scenes `z` (b v d)."""
        cosines = cosine_similarity(self.fuse(instances).unsqueeze(1), z)
        return 2 * pair_loss(cosines, self.pair_loss).mean()

    def fuse(self, instances: Tensor) -> Tensor:
        """Map instances (b k d) to I (b d), in float32 or wider even under autocast."""
        joined = widen(instances).flatten(1)
        with full_precision(joined.device):
            return F.linear(joined, *(parameter.to(joined.dtype) for parameter in self.fuser.parameters()))
