"""`sslkit doctor`: where a recipe's time and memory go, and what to change."""

from __future__ import annotations

from typing import Annotated

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_notes


def doctor(
    context: typer.Context,
    recipe: opt.RecipeOrRun,
    sets: opt.Sets = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to time, after a few untimed ones.")] = 20,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Seeds per arm, to estimate the cost of an ablation.")
    ] = 1,
    accelerator: opt.Accelerator = "auto",
    devices: opt.Devices = "auto",
    nodes: opt.Nodes = 1,
    strategy: opt.Strategy = "auto",
    workers: opt.Workers = None,
    cache_gb: opt.CacheGB = 0.0,
    monitor_every: opt.MonitorEvery = 50,
    compiled: opt.Compile = False,
    checkpoint_activations: opt.CheckpointActivations = False,
    as_json: opt.Json = False,
) -> None:
    """Time some real steps, and show what to change.

    The report says where time and memory go, and what the whole recipe takes. Writes no weights and no run folder.
    """
    from sslkit import targets

    plugins = loaded_plugins(context)
    plan, text = targets.load(recipe, sets or [], plugins, data=True)
    from sslkit.cli.show.tables import print_json
    from sslkit.doctor.examination import examine
    from sslkit.doctor.page import of_examination, print_examination
    from sslkit.training.options import RunOptions

    options = RunOptions(
        accelerator=accelerator, devices=devices, nodes=nodes, strategy=strategy,
        workers=workers, cache_gb=cache_gb, monitor_every=monitor_every,
        compile=compiled, checkpoint_activations=checkpoint_activations,
    )  # fmt: skip
    print_notes(plan.notes)
    examination = examine(plan, text, plugins, options, steps, seeds)
    if examination.rank == 0:
        print_json(of_examination(examination)) if as_json else print_examination(examination)
