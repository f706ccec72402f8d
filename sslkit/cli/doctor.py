"""`sslkit doctor`: where a recipe's time and memory go, and what to change."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from sslkit.cli.commands import CheckpointActivations, Compiled
from sslkit.cli.options import CacheGB, Json, Sets, loaded


def doctor(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's path or name, or a run's folder.")],
    sets: Sets = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed, behind a few that are not.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of an ablation, for what it would take.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[str, typer.Option(help="Devices per node: a number, or auto.")] = "auto",
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp, or fsdp for large ViTs.")] = "auto",
    workers: Annotated[Optional[int], typer.Option(min=0, help="Loader processes per device.")] = None,  # noqa: UP045
    cache_gb: CacheGB = 0.0,
    monitor_every: Annotated[int, typer.Option(min=0, help="As the run would have it.")] = 50,
    compiled: Compiled = False,
    checkpoint_activations: CheckpointActivations = False,
    as_json: Json = False,
) -> None:
    """Take some real steps, and tell where time and memory go, what to change, and what the whole recipe takes.

    Nothing is kept: neither weights nor a run's folder.
    """
    plugins = loaded(context)
    from sslkit import targets

    plan, text = targets.load(recipe, sets or [], plugins, data=True)
    from sslkit.cli import show
    from sslkit.doctor import page
    from sslkit.doctor.examination import examine
    from sslkit.training.options import RunOptions

    options = RunOptions(
        accelerator=accelerator, devices=devices, nodes=nodes, strategy=strategy, workers=workers, cache_gb=cache_gb,
        monitor_every=monitor_every, compile=compiled,
        checkpoint_activations=checkpoint_activations,
    )  # fmt: skip
    for note in plan.notes:
        typer.echo(f"note: {note}", err=True)
    found = examine(plan, text, plugins, options, steps, seeds)
    if found.rank == 0:
        show.print_json(page.of_examination(found)) if as_json else page.print_examination(found)
