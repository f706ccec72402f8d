"""Backbones from torchvision, without their classifiers and with torchvision's own parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Backbone


@hookimpl
def sslkit_backbones() -> Sequence[type[Backbone]]:
    """Return ResNets, a small one for small views, ConvNeXt-T and vision transformers."""
    from sslkit_torchvision import convnext, resnet, small_resnet, vit

    return [
        resnet.ResNet18,
        resnet.ResNet34,
        resnet.ResNet50,
        resnet.ResNet101,
        small_resnet.SmallResNet,
        convnext.ConvNeXtTiny,
        vit.ViTSmall,
        vit.ViTBase,
    ]
