"""ConvNeXt (Liu et al., arXiv 2201.03545), as torchvision builds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torchvision import models

from sslkit.api import Backbone


class ConvNeXtTiny(Backbone):
    """ConvNeXt-T, 768 features: the pooled map after the final layer norm.

    The same norm is applied to each cell of `map`, so that an objective on `map` alone also trains every weight.

    Args:
        stochastic_depth: Probability of dropping the deepest block; lower for shallower blocks, in proportion.
    """

    name = "convnext-tiny"
    gives: ClassVar[Mapping[str, str]] = {"features": "f", "map": "f h w"}

    def __init__(self, *, stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.1) -> None:
        super().__init__()
        net = models.convnext_tiny(stochastic_depth_prob=stochastic_depth)
        self.dim = net.classifier[0].normalized_shape[0]
        self.features = net.features
        del net.classifier[2]
        self.classifier = net.classifier  # only the layer norm, under torchvision's name

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `features` (n f) and `map` (n f h w)."""
        x = self.features(x)
        return {"features": self.classifier(x.mean((2, 3), keepdim=True)), "map": self.classifier[0](x)}
