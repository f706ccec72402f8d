"""The multilayer perceptron of BYOL, ORL, SimCLR and most others."""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from sslkit.api import Dims, Head


class Mlp(Head):
    """Linear layers with a norm and ReLU between them: BYOL's projector and predictor by default.

    BYOL (arXiv 2006.07733, section 3.3): linear 4096, batch norm, ReLU, linear 256, no norm after the last layer.

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer; None for the width of the input.
        layers: Number of linear layers.
        norm: Norm after each hidden layer.
        bias: Use biases in hidden layers.
        last_bias: Use a bias in the last layer; ORL's COCO configurations do not.
        last_norm: Put a norm after the last layer too (without scale and shift), as SimSiam does.
        init: "torch" is PyTorch's own initialisation; "kaiming-fan-in" draws normal weights and sets biases to 0 (ORL).
    """

    name = "mlp"
    example: ClassVar = {}

    def __init__(
        self, dims: Dims, *, hidden: Annotated[int, Field(ge=1, le=1_000_000)] = 4096,
        out: Annotated[int | None, Field(ge=1, le=1_000_000)] = None,
        layers: Annotated[int, Field(ge=1, le=100)] = 2, norm: Literal["batch", "layer", "none"] = "batch",
        bias: bool = True, last_bias: bool = True, last_norm: bool = False,
        init: Literal["torch", "kaiming-fan-in"] = "torch",
    ) -> None:  # fmt: skip
        super().__init__()
        self.out_dim = out or dims["d"]
        widths = [dims["d"], *[hidden] * (layers - 1)]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            parts += [nn.Linear(before, after, bias), _norm(norm, after), nn.ReLU(inplace=True)]
        parts.append(nn.Linear(widths[-1], self.out_dim, last_bias))
        if last_norm:
            parts.append(_norm(norm, self.out_dim, affine=False))
        self.net = nn.Sequential(*(part for part in parts if not isinstance(part, nn.Identity)))
        if init == "kaiming-fan-in":
            self.net.apply(_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n d) to (n out)."""
        y: Tensor = self.net(x)
        return y


def _norm(kind: str, width: int, affine: bool = True) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm1d(width, affine=affine)
    return nn.LayerNorm(width, elementwise_affine=affine) if kind == "layer" else nn.Identity()


def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
