"""timm's models as backbones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from sslkit.api import Backbone


class Timm(Backbone):
    """A timm model by name, without its classifier, from random weights.

    Args:
        model: timm's name, such as "resnet10t" or "vit_tiny_patch16_224".
        image_size: Side of the views that position embeddings are made for; models without them ignore it.
        drop_path: Stochastic depth.
    """

    name = "timm"
    gives: ClassVar[Mapping[str, str]] = {"features": "f"}

    def __init__(
        self, *, model: str, image_size: Annotated[int | None, Field(ge=8)] = None,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net = _create(model, image_size, drop_path)
        self.dim = int(self.net.num_features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `features` (n f), pooled as the model pools."""
        features: Tensor = self.net.forward_head(self.net.forward_features(x), pre_logits=True)
        return {"features": features}


def _create(model: str, image_size: int | None, drop_path: float) -> Any:
    try:
        import timm
    except ImportError:
        raise ValueError('timm is not installed: pip install "sslkit[timm]"') from None
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0.6)
        raise ValueError(f"timm has no model '{model}'" + (f": did you mean {' or '.join(near)}?" if near else ""))
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        if image_size is None:
            return timm.create_model(model, pretrained=False, num_classes=0, **options)
        return timm.create_model(
            model, pretrained=False, num_classes=0, img_size=image_size, dynamic_img_size=True, **options
        )
    except TypeError as error:
        raise ValueError(f"timm's '{model}' does not take these options: {error}") from None
