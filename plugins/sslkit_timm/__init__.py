"""Any convolutional or transformer backbone from timm, by name (an extra: `pip install "sslkit[timm]"`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Backbone


@hookimpl
def sslkit_backbones() -> Sequence[type[Backbone]]:
    """Return the backbone that builds timm models by name."""
    from sslkit_timm.backbone import Timm

    return [Timm]
