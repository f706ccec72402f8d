"""A toy plugin. Hook bodies import what they return, so that listing plugins stays quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Backbone, Objective, ViewSampler


@hookimpl
def sslkit_objectives() -> Sequence[type[Objective]]:
    """Return the objective."""
    from sslkit_toy.objective import CosineSpread

    return [CosineSpread]


@hookimpl
def sslkit_samplers() -> Sequence[type[ViewSampler]]:
    """Return the sampler."""
    from sslkit_toy.sampler import Corners

    return [Corners]


@hookimpl
def sslkit_backbones() -> Sequence[type[Backbone]]:
    """Return the backbone."""
    from sslkit_toy.backbone import TinyConv

    return [TinyConv]


@hookimpl
def sslkit_recipes() -> Sequence[Path]:
    """Return the recipe."""
    return [Path(__file__).parent / "recipes" / "toy.toml"]
