"""A very small convolutional network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from sslkit.api import Backbone


class TinyConv(Backbone):
    """Three strided convolutions with batch norm, for tests and demonstrations.

    Args:
        width: Channels of the first convolution; the last has four times as many.
    """

    name = "tiny-conv"
    gives: ClassVar[Mapping[str, str]] = {"features": "f", "map": "f h w"}

    def __init__(self, *, width: Annotated[int, Field(ge=1)] = 8) -> None:
        super().__init__()
        self.dim = 4 * width
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `features` (n f), the mean of `map` (n f h w)."""
        x = self.layers(x)
        return {"features": x.mean((2, 3)), "map": x}
