"""Lightly's projectors and predictors that consist of plain layers, named after their methods."""

from __future__ import annotations

from typing import Annotated, ClassVar

from lightly.models.modules import heads as lightly_heads
from pydantic import Field
from torch import Tensor, nn

from sslkit.api import Dims, Head
from sslkit_lightly.shared import Count

Layers = Annotated[int, Field(ge=2, le=100)]


class LightlyHead(Head):
    """A lightly head, unchanged."""

    def __init__(self, net: nn.Module, out: int) -> None:
        super().__init__()
        self.net = net
        self.out_dim = out

    def forward(self, x: Tensor) -> Tensor:
        """Map (n d) to (n out)."""
        y: Tensor = self.net(x)
        return y


class SimClrHead(LightlyHead):
    """SimCLR's projector: batch norm after every layer, no bias.

    Lightly's SimCLRProjectionHead (SimCLR, arXiv 2002.05709, section 2.1; v2, 2006.10029, has three layers).

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
        layers: Number of linear layers.
        batch_norm: Use batch norm.
    """

    name: ClassVar[str] = "simclr"

    def __init__(
        self, dims: Dims, *, hidden: Count = 2048, out: Count = 128, layers: Layers = 2, batch_norm: bool = True
    ) -> None:
        super().__init__(lightly_heads.SimCLRProjectionHead(dims["d"], hidden, out, layers, batch_norm), out)


class MoCoHead(LightlyHead):
    """MoCo's projector; with batch norm and other sizes, also the projector and predictor of v3.

    Lightly's MoCoProjectionHead (MoCo v2, arXiv 2003.04297). MoCo v3 (2104.02057, section 4.1): `hidden = 4096`,
    `out = 256`, `batch_norm = true`, with `layers = 3` as projector and `layers = 2` as predictor.

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
        layers: Number of linear layers.
        batch_norm: Put a batch norm after every layer.
    """

    name: ClassVar[str] = "moco"

    def __init__(
        self, dims: Dims, *, hidden: Count = 2048, out: Count = 128, layers: Layers = 2, batch_norm: bool = False
    ) -> None:
        super().__init__(lightly_heads.MoCoProjectionHead(dims["d"], hidden, out, layers, batch_norm), out)


class BarlowTwinsHead(LightlyHead):
    """Barlow Twins' projector: three layers of equal width.

    Lightly's BarlowTwinsProjectionHead (arXiv 2103.03230, section 2.2).

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "barlow-twins"

    def __init__(self, dims: Dims, *, hidden: Count = 8192, out: Count = 8192) -> None:
        super().__init__(lightly_heads.BarlowTwinsProjectionHead(dims["d"], hidden, out), out)


class VicRegHead(LightlyHead):
    """VICReg's expander: three layers of equal width.

    Lightly's VICRegProjectionHead (arXiv 2105.04906, section 4.2).

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
        layers: Number of linear layers.
    """

    name: ClassVar[str] = "vicreg"

    def __init__(self, dims: Dims, *, hidden: Count = 8192, out: Count = 8192, layers: Layers = 3) -> None:
        super().__init__(lightly_heads.VICRegProjectionHead(dims["d"], hidden, out, layers), out)


class TiCoHead(LightlyHead):
    """TiCo's projector, which is BYOL's.

    Lightly's TiCoProjectionHead (arXiv 2206.10698).

    Args:
        hidden: Width of the hidden layer.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "tico"

    def __init__(self, dims: Dims, *, hidden: Count = 4096, out: Count = 256) -> None:
        super().__init__(lightly_heads.TiCoProjectionHead(dims["d"], hidden, out), out)


class SwavHead(LightlyHead):
    """SwAV's projector; the objective `lightly/swav` normalises its outputs to length 1.

    Lightly's SwaVProjectionHead (arXiv 2006.09882, section 4).

    Args:
        hidden: Width of the hidden layer.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "swav"

    def __init__(self, dims: Dims, *, hidden: Count = 2048, out: Count = 128) -> None:
        super().__init__(lightly_heads.SwaVProjectionHead(dims["d"], hidden, out), out)


class SimSiamHead(LightlyHead):
    """SimSiam's projector: three layers, a batch norm after each, the last one without scale and shift.

    Lightly's SimSiamProjectionHead (arXiv 2011.10566, section 3).

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "simsiam"

    def __init__(self, dims: Dims, *, hidden: Count = 2048, out: Count = 2048) -> None:
        super().__init__(lightly_heads.SimSiamProjectionHead(dims["d"], hidden, out), out)


class SimSiamPredictor(LightlyHead):
    """SimSiam's predictor: a bottleneck, and an output as wide as the input.

    Lightly's SimSiamPredictionHead (arXiv 2011.10566, section 3).

    Args:
        hidden: Width of the bottleneck.
    """

    name: ClassVar[str] = "simsiam-predictor"

    def __init__(self, dims: Dims, *, hidden: Count = 512) -> None:
        super().__init__(lightly_heads.SimSiamPredictionHead(dims["d"], hidden, dims["d"]), dims["d"])


class NnclrHead(LightlyHead):
    """NNCLR's projector: three layers, a batch norm after each.

    Lightly's NNCLRProjectionHead (arXiv 2104.14548, section 4.1).

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "nnclr"

    def __init__(self, dims: Dims, *, hidden: Count = 2048, out: Count = 256) -> None:
        super().__init__(lightly_heads.NNCLRProjectionHead(dims["d"], hidden, out), out)


class NnclrPredictor(LightlyHead):
    """NNCLR's predictor, with an output as wide as the input.

    Lightly's NNCLRPredictionHead (arXiv 2104.14548, section 4.1).

    Args:
        hidden: Width of the hidden layer.
    """

    name: ClassVar[str] = "nnclr-predictor"

    def __init__(self, dims: Dims, *, hidden: Count = 4096) -> None:
        super().__init__(lightly_heads.NNCLRPredictionHead(dims["d"], hidden, dims["d"]), dims["d"])


class MmcrHead(LightlyHead):
    """MMCR's projector.

    Lightly's MMCRProjectionHead (arXiv 2303.03307), whose `layers` counts only hidden layers.

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
        layers: Number of hidden layers.
        batch_norm: Put a batch norm after each hidden layer.
        bias: Use biases in linear layers.
    """

    name: ClassVar[str] = "mmcr"

    def __init__(
        self, dims: Dims, *, hidden: Count = 8192, out: Count = 512, layers: Count = 2, batch_norm: bool = True,
        bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(lightly_heads.MMCRProjectionHead(dims["d"], hidden, out, layers, batch_norm, bias), out)


class MsnHead(LightlyHead):
    """MSN's projector: three layers with GELU.

    Lightly's MSNProjectionHead (arXiv 2204.07141).

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
    """

    name: ClassVar[str] = "msn"

    def __init__(self, dims: Dims, *, hidden: Count = 2048, out: Count = 256) -> None:
        super().__init__(lightly_heads.MSNProjectionHead(dims["d"], hidden, out), out)


class LeJepaHead(LightlyHead):
    """LeJEPA's projector.

    Lightly's LeJEPAProjectionHead (arXiv 2511.08544 and its code).

    Args:
        hidden: Width of the hidden layers.
        out: Width of the last layer.
        layers: Number of linear layers.
    """

    name: ClassVar[str] = "lejepa"

    def __init__(self, dims: Dims, *, hidden: Count = 2048, out: Count = 64, layers: Layers = 3) -> None:
        super().__init__(lightly_heads.LeJEPAProjectionHead(dims["d"], hidden, out, layers), out)
