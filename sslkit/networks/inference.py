"""A backbone for use outside of training: with its normalisation, on plain images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkit.api import Backbone


class NormalisedBackbone(nn.Module):
    """A backbone that takes decoded images and returns features.

    Args:
        backbone: The backbone.
        mean: Mean to subtract from each colour channel of pixels in [0, 1].
        std: Standard deviation to divide each colour channel by afterwards.

    Attributes:
        dim: Number of features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone, self.dim = backbone, backbone.dim
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor, kind: str = "features") -> Tensor:
        """Embed images.

        Args:
            images: Shape (b 3 h w), RGB: uint8 in [0, 255], or floating-point in [0, 1].
            kind: One of the backbone's outputs: "features" (b f), or "map" (b f h w) and "tokens" (b t f) where the
                backbone has them.

        Raises:
            ValueError: The backbone has no such output.
        """
        if kind not in self.backbone.gives:
            raise ValueError(f"the backbone has no output '{kind}'; it has {', '.join(self.backbone.gives)}")
        pixels = images.to(self.mean) / 255 if images.dtype == torch.uint8 else images
        outputs: dict[str, Tensor] = self.backbone((pixels - self.mean) / self.std)
        return outputs[kind]
