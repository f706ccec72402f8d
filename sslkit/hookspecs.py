"""The hooks (pluggy, project "sslkit"). Hooks named by nouns collect; those named by past participles report.

A plugin is a module, named in the entry-point group `sslkit`, that implements some of these with
`from sslkit import hookimpl`. Collecting hooks import what they return inside their bodies, so that the module itself
is light; they take no default arguments. Reporting hooks are called on rank 0 only; they must not change anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pluggy import HookspecMarker

if TYPE_CHECKING:
    import typer

    from sslkit.api import Backbone, Head, Objective, Probe, Proposer, Run, Source, ViewSampler

hookspec = HookspecMarker("sslkit")


# Collecting ------------------------------------------------------------------------------------------------


@hookspec
def sslkit_sources() -> Sequence[type[Source]]:  # type: ignore[empty-body]
    """Return source classes."""


@hookspec
def sslkit_proposers() -> Sequence[type[Proposer]]:  # type: ignore[empty-body]
    """Return proposer classes."""


@hookspec
def sslkit_samplers() -> Sequence[type[ViewSampler]]:  # type: ignore[empty-body]
    """Return view sampler classes."""


@hookspec
def sslkit_backbones() -> Sequence[type[Backbone]]:  # type: ignore[empty-body]
    """Return backbone classes."""


@hookspec
def sslkit_heads() -> Sequence[type[Head]]:  # type: ignore[empty-body]
    """Return projector and predictor classes."""


@hookspec
def sslkit_objectives() -> Sequence[type[Objective]]:  # type: ignore[empty-body]
    """Return objective classes."""


@hookspec
def sslkit_probes() -> Sequence[type[Probe]]:  # type: ignore[empty-body]
    """Return probe classes."""


@hookspec
def sslkit_recipes() -> Sequence[Path]:  # type: ignore[empty-body]
    """Return the recipe files shipped inside the plugin's package."""


@hookspec
def sslkit_commands(app: typer.Typer) -> None:
    """Add sub-commands to `app`, the plugin's own: `sslkit <plugin> <command>`."""


# Reporting -------------------------------------------------------------------------------------------------


@hookspec
def sslkit_run_started(run: Run) -> None:
    """Training is about to begin, or to resume after `run.step` steps."""


@hookspec
def sslkit_step_finished(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Optimizer step `step` (from 1) is done; `terms` holds losses, monitors and rates."""


@hookspec
def sslkit_checkpoint_started(run: Run, step: int) -> None:
    """A checkpoint after step `step` is about to be written: a run that resumes from it does not repeat its steps."""


@hookspec
def sslkit_checkpoint_saved(run: Run, step: int, path: Path) -> None:
    """A complete checkpoint has been saved at `path`."""


@hookspec
def sslkit_run_finished(run: Run, error: BaseException | None) -> None:
    """The run has ended; `error` is what ended it, or None."""


COLLECTING: Mapping[str, str] = {
    "source": "sslkit_sources",
    "proposer": "sslkit_proposers",
    "sampler": "sslkit_samplers",
    "backbone": "sslkit_backbones",
    "head": "sslkit_heads",
    "objective": "sslkit_objectives",
    "probe": "sslkit_probes",
}
"""Kind of component -> the hook that collects it."""

__all__ = ["COLLECTING", "Any", *(name for name in dir() if name.startswith("sslkit_"))]
