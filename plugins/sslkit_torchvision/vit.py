"""Vision transformers (Dosovitskiy et al., arXiv 2010.11929) with torchvision's blocks, for any size of view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchvision import models

from sslkit.api import Backbone


class _ViT(Backbone):
    """A vision transformer.

    Position embeddings are those of a view of `image_size`, interpolated for views of another size.

    Args:
        patch: Side of a patch, pixels; the sides of views must be multiples of it.
        image_size: Side of the views for which position embeddings are created, pixels.
        features: "class" uses the class token, "mean" the mean of the patch tokens.
        dropout: Dropout rate inside the blocks.
    """

    gives: ClassVar[Mapping[str, str]] = {"features": "f", "map": "f h w", "tokens": "t f"}
    width: ClassVar[int]
    attention_heads: ClassVar[int]

    def __init_subclass__(cls) -> None:
        """Copy the options into the docstring of each network."""
        cls.__doc__ = f"{cls.__doc__}\n{(_ViT.__doc__ or '').partition(chr(10))[2]}"

    def __init__(
        self, *, patch: Annotated[int, Field(ge=2, le=4096)] = 16,
        image_size: Annotated[int, Field(ge=16, le=4096)] = 224,
        features: Literal["class", "mean"] = "class", dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:  # fmt: skip
        if image_size % patch:
            raise ValueError(f"image_size = {image_size} is not a multiple of patch = {patch}")
        super().__init__()
        self.dim = self.width
        self.patch, self.features = patch, features
        net = models.VisionTransformer(image_size, patch, 12, self.attention_heads, self.width, 4 * self.width, dropout)
        self.conv_proj, self.class_token, self.encoder = net.conv_proj, net.class_token, net.encoder

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `features` (n f), `map` (n f h w) and `tokens` (n t f), the patches in reading order.

        Raises:
            ValueError: The sides of the views are not multiples of the patch.
        """
        if x.shape[-1] % self.patch or x.shape[-2] % self.patch:
            raise ValueError(f"{x.shape[-2]} x {x.shape[-1]} pixels are not a multiple of patch = {self.patch}")
        grid = self.conv_proj(x)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), grid.flatten(2).transpose(1, 2)], dim=1)
        tokens = self.encoder.dropout(tokens + self._positions(*grid.shape[2:]))
        tokens = self.encoder.ln(self.encoder.layers(tokens))
        patches = tokens[:, 1:]
        pooled = tokens[:, 0] if self.features == "class" else patches.mean(1)
        return {"features": pooled, "map": patches.transpose(1, 2).reshape(grid.shape), "tokens": patches}

    def _positions(self, height: int, width: int) -> Tensor:
        """Return position embeddings (1 1+t f) for a grid of patches."""
        table: Tensor = self.encoder.pos_embedding
        side = round((table.shape[1] - 1) ** 0.5)
        if (height, width) == (side, side):
            return table
        grid = table[:, 1:].transpose(1, 2).reshape(1, self.dim, side, side)
        resized = F.interpolate(grid, (height, width), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
        return torch.cat([table[:, :1], resized], dim=1)


class ViTSmall(_ViT):
    """ViT-S/16, 384 features."""

    name = "vit-small"
    width = 384
    attention_heads = 6


class ViTBase(_ViT):
    """ViT-B/16, 768 features."""

    name = "vit-base"
    width = 768
    attention_heads = 12
