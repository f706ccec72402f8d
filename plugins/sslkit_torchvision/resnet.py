"""Residual networks (He et al., arXiv 1512.03385), as torchvision builds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torchvision import models

from sslkit.api import Backbone


class _ResNet(Backbone):
    """A residual network.

    Args:
        width: Channels of the stem and of the first stage; each later stage has twice as many as the one before. 64 is
            the paper's, 128 BYOL's "2x" (arXiv 2006.07733, table 1).
        stem: "imagenet" is a 7 x 7 convolution of stride 2 and a max-pool; "small" is a 3 x 3 convolution of stride 1
            without pooling, the usual choice for images of 32 to 64 pixels.
        init: "torchvision" (Kaiming normal, fan-out) or "fan-in" (BYOL and ORL).
        zero_init_residual: Start each residual branch at zero.
    """

    gives: ClassVar[Mapping[str, str]] = {"features": "f", "map": "f h w"}
    build: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        """Copy the options into the docstring of each network."""
        cls.__doc__ = f"{cls.__doc__}\n{(_ResNet.__doc__ or '').partition(chr(10))[2]}"

    def __init__(
        self, *, width: Annotated[int, Field(ge=8, le=4096)] = 64, stem: Literal["imagenet", "small"] = "imagenet",
        init: Literal["torchvision", "fan-in"] = "torchvision", zero_init_residual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        net = type(self).build(zero_init_residual=zero_init_residual)
        self.dim = net.fc.in_features * width // 64
        if width != 64:
            _resize(net, width, zero_init_residual)
        if stem == "small":
            net.conv1, net.maxpool = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.Identity()
            _fan_out(net.conv1)
        for name, module in net.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, module)  # flat, so that weights keep torchvision's names
        if init == "fan-in":
            self.apply(_fan_in)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `features` (n f), the mean of `map` (n f h w)."""
        for module in self.children():
            x = module(x)
        return {"features": x.mean((2, 3)), "map": x}


def _resize(net: models.ResNet, width: int, zero_init_residual: bool) -> None:
    """Rebuild the stem and the stages with another number of channels, initialised as in torchvision."""
    net.conv1, net.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
    net.inplanes = width
    for number, name in enumerate(("layer1", "layer2", "layer3", "layer4")):
        stage = getattr(net, name)
        layer = net._make_layer(type(stage[0]), width * 2**number, len(stage), stride=1 if number == 0 else 2)
        setattr(net, name, layer)
        if zero_init_residual:
            for block in layer:
                nn.init.zeros_(getattr(block, "bn3", block.bn2).weight)
    net.apply(_fan_out)


def _fan_out(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _fan_in(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


class ResNet18(_ResNet):
    """ResNet-18, 512 features."""

    name = "resnet18"
    build = staticmethod(models.resnet18)


class ResNet34(_ResNet):
    """ResNet-34, 512 features."""

    name = "resnet34"
    build = staticmethod(models.resnet34)


class ResNet50(_ResNet):
    """ResNet-50, 2048 features."""

    name = "resnet50"
    build = staticmethod(models.resnet50)


class ResNet101(_ResNet):
    """ResNet-101, 2048 features."""

    name = "resnet101"
    build = staticmethod(models.resnet101)
