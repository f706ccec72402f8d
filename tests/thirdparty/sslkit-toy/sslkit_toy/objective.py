"""Agreement within images, right angles between them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from sslkit.api import Dims, Objective, Terms
from sslkit.nn import unit


class CosineSpread(Objective):
    """Views of one image should point the same way, and different images at right angles.

    With unit projections u of image i and view a, and V(i) the mean over views of u: the term `agreement` is
    1 - mean_i |V(i)|^2, 0 when all views agree; `spread` is the mean over pairs of different images of
    (V(i) . V(j))^2, 0 when they are orthogonal (and when there is one image only).

    Args:
        spread: Weight of the term `spread`.
    """

    name = "cosine-spread"
    requires: ClassVar[dict[str, str]] = {"z": "online.projection.scene: b v d"}
    couples_batch = True  # different images are compared

    def __init__(self, dims: Dims, *, spread: Annotated[float, Field(ge=0)] = 1.0) -> None:
        super().__init__()
        if dims["v"] < 2:
            raise ValueError(f"needs two views or more, to agree; got {dims['v']}")
        self.spread = spread

    def forward(self, z: Tensor) -> Terms:  # type: ignore[override]
        """Compare projections `z` (b v d)."""
        mean = unit(z).mean(1)
        gram = mean @ mean.T
        lengths = gram.diagonal()
        b = z.shape[0]
        pairs = (gram.square().sum() - lengths.square().sum()) / max(b * (b - 1), 1)
        return Terms({"agreement": 1 - lengths.mean(), "spread": self.spread * pairs}, {"length": lengths.mean()})
