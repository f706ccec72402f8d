"""Image sources (folders, tar shards, COCO, VOC, built-in scenes) and samplers (two-views, multi-crop)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    import typer

    from sslkit.api import Source, ViewSampler


@hookimpl
def sslkit_sources() -> Sequence[type[Source]]:
    """Return the sources: image folders, tar shards, COCO, Pascal VOC and the built-in scenes."""
    from sslkit_images.coco import Coco
    from sslkit_images.folder import Folder
    from sslkit_images.scenes.source import SampleScenes
    from sslkit_images.shards.source import Shards
    from sslkit_images.voc import Voc

    return [Folder, Shards, Coco, Voc, SampleScenes]


@hookimpl
def sslkit_samplers() -> Sequence[type[ViewSampler]]:
    """Return the samplers that need no proposals."""
    from sslkit_images.samplers import MultiCrop, TwoViews

    return [TwoViews, MultiCrop]


@hookimpl
def sslkit_commands(app: typer.Typer) -> None:
    """Add the command `pack`."""
    from sslkit_images.shards.commands import add

    add(app)
