"""Arguments and options that several commands take, and the plugins that commands work with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sslkit.plugins import Plugins

# ---------------------------------------------------------------------------------------------- recipes and output

RecipeOrRun = Annotated[
    str, typer.Argument(help="A recipe's path or name (`sslkit recipes` lists them), or a run's folder.")
]
RecipeName = Annotated[str, typer.Argument(help="A recipe's path or name (`sslkit recipes` lists them).")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one value, as in --set optimizer.base_lr=0.1; repeatable."
    ),
]
RunsFolder = Annotated[Path, typer.Option(help="Folder of all runs.")]


def results_alone(context: typer.Context, value: Any = True) -> Any:
    """Until the command ends, keep stdout for results if `value` is set; plugins may print, too."""
    if value:
        from sslkit.cli.show import tables

        context.with_resource(tables.results_alone())
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON.", callback=results_alone)]

# --------------------------------------------------------------------------------------------- options of a run

Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Devices = Annotated[str, typer.Option(help="Devices per node: a number, or auto.")]
Nodes = Annotated[int, typer.Option(min=1, max=10_000, help="Nodes of a run.")]
Strategy = Annotated[str, typer.Option(help="auto, ddp, or fsdp for large ViTs.")]
Workers = Annotated[int | None, typer.Option(min=0, max=256, help="Loader processes per device.")]
CacheGB = Annotated[float, typer.Option(min=0, max=100_000, help="Memory for decoded images, gigabytes per node.")]
SaveEvery = Annotated[int | None, typer.Option(min=1, help="Optimizer steps between checkpoints; an epoch by default.")]
MonitorEvery = Annotated[
    int, typer.Option(min=0, help="Optimizer steps between feature ranks and conflict maps; 0 switches them off.")
]
ProbeEvery = Annotated[
    int | None, typer.Option(min=1, help="Optimizer steps between online probes, for those without `every`.")
]
OnCollapse = Annotated[
    Literal["warn", "stop"], typer.Option(help="What to do when the features collapse; stop ends with code 6.")
]
OnDivergence = Annotated[
    Literal["stop", "rollback"],
    typer.Option(
        help="What to do when a loss or gradient is not finite: end with code 6, or return to the newest checkpoint "
        "and skip the batch."
    ),
]
OnChangedImages = Annotated[
    Literal["stop", "continue"],
    typer.Option(help="What to do when images were added or removed since the run began; stop ends with code 5."),
]
Compile = Annotated[bool, typer.Option("--compile", help="Let torch compile the backbones; worth trying on a GPU.")]
CheckpointActivations = Annotated[
    bool,
    typer.Option(
        "--checkpoint-activations", help="Use less memory and a third more compute; the numbers stay the same."
    ),
]
CudaGraph = Annotated[
    bool,
    typer.Option("--cuda-graph", help="Record a step on the GPU and replay it; meant for steps that wait for the CPU."),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="A parameter of submitit, as in --slurm timeout_min=600; repeatable."),
]
LAUNCHER = typer.Option(help="Where to train: on this machine, or as SLURM jobs.")
"""The option of commands that offer several launchers."""

# ------------------------------------------------------------------------------------------------ what commands share


def loaded_plugins(context: typer.Context) -> Plugins:
    """Return the plugins that the command line was built with."""
    plugins: Any = context.obj
    assert isinstance(plugins, Plugins)
    return plugins


def set_arguments(sets: list[str] | None) -> list[str]:
    """Return overrides as arguments for another command."""
    return [part for item in sets or [] for part in ("--set", item)]


def print_message(line: str) -> None:
    """Print a line on stderr, where messages go: stdout is for results."""
    typer.echo(line, err=True)


def print_notes(notes: list[str]) -> None:
    """Print the notes of a plan or of an ablation."""
    for note in notes:
        print_message(f"note: {note}")
