"""A small residual network for small views, to train on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sslkit.api import Backbone

Channels = Annotated[int, Field(ge=8, le=65_536)]


class SmallResNet(Backbone):
    """A residual network for views of 32 to 64 pixels: 256 features, 0.83 million weights.

    Three stages of one basic block, as in the CIFAR-10 networks of He et al. (arXiv 1512.03385, section 4.2, n = 1),
    with projection shortcuts. It differs from them where a CPU gains time or a linear classifier gains accuracy:

    - The stem, a 3 x 3 convolution, has the first of the two strides of 2, and the last stage has none. Only the stem
      computes at the full size; the map of a 32 px view is still 8 x 8, as in the paper.
    - Stages have 32, 64 and 256 channels (paper: 16, 32, 64). Frozen features of shallow networks improve with their
      number more than with depth (Coates et al., AISTATS 2011).

    A ResNet-18 reduces a 32 px view to a map of 1 x 1, and with it every position to one vector; at this size it learns
    far less in the same time (benchmarks/quickstart.md).

    Args:
        widths: Channels of the three stages; the last is the number of features.
        zero_init_residual: Start each residual branch at zero.
    """

    name = "small-resnet"
    gives: ClassVar[Mapping[str, str]] = {"features": "f", "map": "f h w"}

    def __init__(
        self, *, widths: tuple[Channels, Channels, Channels] = (32, 64, 256), zero_init_residual: bool = False
    ) -> None:
        super().__init__()
        first, second, self.dim = widths
        self.conv1, self.bn1 = nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(first, first, stride=1)
        self.layer2 = _stage(first, second, stride=2)
        self.layer3 = _stage(second, self.dim, stride=1)
        self.apply(_fan_out)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `features` (n f), the mean of `map` (n f h w), whose sides are a quarter of the view's."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return {"features": x.mean((2, 3)), "map": x}


def _stage(channels: int, out: int, stride: int) -> nn.Sequential:
    """Return one basic block, with a projection shortcut where the shape changes."""
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return nn.Sequential(BasicBlock(channels, out, stride, shortcut))


def _fan_out(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
