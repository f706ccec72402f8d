"""timm models as backbones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sslkit.api import Backbone


class Timm(Backbone):
    """A timm model by name, with random weights and without its classifier.

    It returns `features`, pooled as the model pools them; `map`, if the model ends in a map; and `tokens` (without
    class and register tokens), if it ends in tokens.

    Args:
        model: timm's name, such as "resnet10t" or "vit_tiny_patch16_224".
        image_size: Side of the views for which position embeddings are created, pixels; views of other sizes are then
            allowed too. Only for models with position embeddings.
        drop_path: Rate of stochastic depth.
    """

    name = "timm"
    gives: ClassVar[Mapping[str, str]] = {"features": "f"}

    def __init__(
        self, *, model: str, image_size: Annotated[int | None, Field(ge=8, le=4096)] = None,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        options = {"drop_path_rate": drop_path} if drop_path else {}
        if image_size is not None:
            options |= {"img_size": image_size, "dynamic_img_size": True}
        self.net = _create(model, options)
        self.dim = int(self.net.num_features)
        self.layout = _layout(self.net, model, options, image_size)
        self.gives = {"features": "f", **_ROWS[self.layout]}  # type: ignore[misc] # depends on the model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return `features` (n f), pooled as the model pools them, and `map` or `tokens` if the model has them."""
        y = self.net.forward_features(x)
        rows = {"features": self.net.forward_head(y, pre_logits=True)}
        if self.layout in ("nchw", "nhwc"):
            rows["map"] = y if self.layout == "nchw" else y.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            rows["tokens"] = y[:, getattr(self.net, "num_prefix_tokens", 0) :]
        return rows


_ROWS: Mapping[str, Mapping[str, str]] = {
    "nchw": {"map": "f h w"}, "nhwc": {"map": "f h w"}, "tokens": {"tokens": "t f"}, "other": {},
}  # fmt: skip


def _create(model: str, options: Mapping[str, Any]) -> Any:
    try:
        import timm
    except ImportError:
        raise ValueError('timm is not installed: pip install "sslkit[timm]"') from None
    if not timm.is_model(model):
        names = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0.6)
        raise ValueError(f"timm has no model '{model}'" + (f": did you mean {' or '.join(names)}?" if names else ""))
    try:
        return _build(timm.create_model, model, options)
    except TypeError as error:
        raise ValueError(f"timm's '{model}' does not take these options: {error}") from None


def _build(create: Any, model: str, options: Mapping[str, Any]) -> Any:
    """Build on the current device; a model that computes with values while it is built moves to meta afterwards."""
    try:
        return create(model, pretrained=False, num_classes=0, **options)
    except (NotImplementedError, RuntimeError):
        device = torch.empty(0).device  # torch 2.6's get_default_device ignores `with torch.device(...)`
        if device.type != "meta":
            raise
        with torch.device("cpu"):
            return create(model, pretrained=False, num_classes=0, **options).to(device)


def _layout(net: Any, model: str, options: Mapping[str, Any], image_size: int | None) -> str:
    """Determine, with shapes alone, what `forward_features` returns: nchw, nhwc, tokens or other."""
    size = image_size or net.default_cfg["input_size"][-1]
    with torch.device("meta"), torch.no_grad():
        twin = net if next(net.parameters()).is_meta else _create(model, options)
        y = twin.train().forward_features(torch.zeros(2, 3, size, size))
    if y.ndim == 4:
        return "nchw" if y.shape[1] == net.num_features else "nhwc" if y.shape[3] == net.num_features else "other"
    return "tokens" if y.ndim == 3 and y.shape[2] == net.num_features else "other"
