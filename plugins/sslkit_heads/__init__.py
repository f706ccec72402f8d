"""Projectors and predictors that belong to no particular method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Head


@hookimpl
def sslkit_heads() -> Sequence[type[Head]]:
    """Return the multilayer perceptron."""
    from sslkit_heads.mlp import Mlp

    return [Mlp]
