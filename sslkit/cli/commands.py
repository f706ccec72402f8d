"""The core's commands. Heavy imports wait inside, so that `sslkit --help` is quick."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from sslkit.cli.options import CacheGB, Json, Sets, loaded
from sslkit.cli.probe import probe

if TYPE_CHECKING:
    from sslkit.ablation.trials import PlannedRun
    from sslkit.training.options import RunOptions
    from sslkit.training.trainer import Result

Recipe = Annotated[
    str, typer.Argument(help="A recipe's path or name (`sslkit recipes` lists them), or a run's folder.")
]

SaveEvery = Annotated[int | None, typer.Option(min=1, help="Optimizer steps between checkpoints; an epoch by default.")]
KeepEvery = Annotated[int | None, typer.Option(min=1, help="Also keep every so many-th checkpoint for good.")]
MonitorEvery = Annotated[
    int, typer.Option(min=0, help="Optimizer steps between ranks and conflict maps; 0 switches them off.")
]
OnCollapse = Annotated[
    Literal["warn", "stop"], typer.Option(help="What to do when the features collapse; stop ends with code 6.")
]
OnDivergence = Annotated[
    Literal["stop", "rollback"],
    typer.Option(help="What to do when a loss is not finite: end with code 6, or leave out the batch."),
]
OnChangedImages = Annotated[
    Literal["stop", "continue"],
    typer.Option(help="What to do when images were added or removed since the run began; stop ends with code 5."),
]
Compiled = Annotated[bool, typer.Option("--compile", help="Let torch compile the backbones; worth trying on a GPU.")]
CheckpointActivations = Annotated[
    bool, typer.Option("--checkpoint-activations", help="Less memory, a third more computing, the same numbers.")
]
CudaGraph = Annotated[
    bool, typer.Option("--cuda-graph", help="Record a step on the GPU and replay it: for steps that wait for the host.")
]
SlurmWords = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="KEY=VALUE", help="Of submitit, as timeout_min=600; repeatable."),
]


def run(
    context: typer.Context,
    recipe: Recipe,
    sets: Sets = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    arm: Annotated[str, typer.Option(help="Name of this variant; the run's folder is RUNS/RECIPE/ARM-sSEED.")] = "full",
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[str, typer.Option(help="Devices per node: a number, or auto.")] = "auto",
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp, or fsdp for large ViTs.")] = "auto",
    workers: Annotated[Optional[int], typer.Option(min=0, help="Loader processes per device.")] = None,  # noqa: UP045
    cache_gb: CacheGB = 0.0,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop, resumable, after this optimizer step.")] = None,
    save_every: SaveEvery = None,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints to keep.")] = 2,
    keep_every: KeepEvery = None,
    log_every: Annotated[int, typer.Option(min=1, help="Optimizer steps between records of the metrics.")] = 1,
    monitor_every: MonitorEvery = 50,
    on_collapse: OnCollapse = "warn",
    on_divergence: OnDivergence = "stop",
    max_rollbacks: Annotated[int, typer.Option(min=1, help="Batches that may be left out.")] = 3,
    on_changed_images: OnChangedImages = "stop",
    compiled: Compiled = False,
    checkpoint_activations: CheckpointActivations = False,
    cuda_graph: CudaGraph = False,
    launcher: Annotated[Literal["local", "slurm"], typer.Option(help="Where to train: here, or as a job.")] = "local",
    slurm: SlurmWords = None,
    as_json: Json = False,
) -> None:
    """Train a recipe, or go on in a run's folder; the same command again goes on where it stopped."""
    plugins = loaded(context)
    from sslkit import targets

    plan, text = targets.load(recipe, sets or [], plugins, data=True)
    from sslkit.ablation.trials import PlannedRun
    from sslkit.cli import show
    from sslkit.storage.run_folder import RunFolder
    from sslkit.training import trainer
    from sslkit.training.options import RunOptions

    own = Path(recipe).is_dir()
    folder = RunFolder(Path(recipe)) if own else RunFolder.of(runs, text.name, arm, plan.recipe.seed)
    options = RunOptions(
        accelerator=accelerator, devices=devices, nodes=nodes, strategy=strategy,
        workers=workers, cache_gb=cache_gb, stop_after=stop_after,
        save_every=save_every, keep=keep, keep_every=keep_every,
        log_every=log_every, monitor_every=monitor_every, on_collapse=on_collapse,
        on_divergence=on_divergence, max_rollbacks=max_rollbacks, on_changed_images=on_changed_images,
        compile=compiled, checkpoint_activations=checkpoint_activations, cuda_graph=cuda_graph,
    )  # fmt: skip
    for note in plan.notes:
        typer.echo(f"note: {note}", err=True)
    if launcher == "slurm":
        result = _train_as_job(PlannedRun(arm, plan.recipe.seed, plan, folder), options, slurm or [])
    else:
        result = trainer.train(plan, text, plugins, folder, options)
    if result.rank == 0:
        show.print_json(show.of_result(result)) if as_json else show.print_result(result)


def _train_as_job(run: PlannedRun, options: RunOptions, slurm: list[str]) -> Result:
    """Submit a run, and wait until it is finished; the same command waits again for one that is in the queue.

    Raises:
        PreemptedError: It was stopped, or waiting was.
        SslkitError: It failed, with the exit code that it ended with.
    """
    from sslkit.ablation import cluster, launch
    from sslkit.errors import PreemptedError, SslkitError
    from sslkit.training.trainer import finished

    parameters, name = cluster.asked(slurm, options)
    run.folder.refuse_other(run.plan.resolved())
    was_finished = run.state == "finished"
    run.write_recipe()
    jobs = cluster.Slurm(
        run.folder.path / "slurm", launch.arguments(options), parameters, lambda line: typer.echo(line, err=True), name
    )
    jobs.train([run])
    if run.state == "failed":
        error = SslkitError(f"the job failed: {run.folder.status().get('reason') or f'see {jobs.logs}'}")
        error.exit_code = run.folder.status().get("code", 1)
        raise error
    if run.state != "finished":
        raise PreemptedError("the job was stopped; the same command submits it again, and it goes on")
    result = finished(run.folder)
    return result if was_finished else replace(result, resumed_from=0)


def check(context: typer.Context, recipe: Recipe, sets: Sets = None, as_json: Json = False) -> None:
    """Report every problem of a recipe at once, or what it would build."""
    from sslkit import targets

    plugins = loaded(context)
    checked = targets.check(targets.read(recipe, sets or [], plugins), plugins)
    error = checked.error()
    if as_json:
        from sslkit.cli import show

        show.print_json(show.of_check(checked.text, checked.problems, checked.plan if not error else None))
        raise typer.Exit(error.exit_code if error else 0)
    if error:
        raise error
    from sslkit.cli import show

    assert checked.plan is not None
    show.print_plan(checked.text, checked.plan)


def resolve(context: typer.Context, recipe: Recipe, sets: Sets = None, as_json: Json = False) -> None:
    """Print a recipe with full ids, every default and the plugins' versions."""
    from sslkit import targets
    from sslkit.planning import toml

    plan, _ = targets.load(recipe, sets or [], loaded(context))
    typer.echo(json.dumps(plan.resolved(), indent=2) if as_json else toml.dumps(plan.resolved()), nl=as_json)


def diff(context: typer.Context, a: Recipe, b: Recipe, as_json: Json = False) -> None:
    """Print every value in which two recipes differ, defaults included."""
    from sslkit import targets
    from sslkit.cli import show
    from sslkit.planning import toml

    plugins = loaded(context)
    plans = [targets.load(name, [], plugins)[0].resolved() for name in (a, b)]
    rows = list(toml.differences(*plans))
    if as_json:
        show.print_json([{"key": key, "a": old, "b": new} for key, old, new in rows])
    else:
        show.print_diff(a, b, rows)


def schema(context: typer.Context) -> None:
    """Print the JSON schema of recipes, with the options of every installed component."""
    from sslkit.planning.json_schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(loaded(context)), indent=2))


def recipes(
    context: typer.Context,
    name: Annotated[Optional[str], typer.Argument(help="Print this one.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """List the recipes that are there, or print one: `sslkit recipes byol_coco > mine.toml`."""
    from sslkit.planning import recipe as found

    known = found.shipped() | loaded(context).recipes()
    if name:
        typer.echo(found.locate(name, known).read_text(encoding="utf-8"), nl=False)
        return
    from sslkit.cli import show

    rows = [
        {"name": id_, "summary": found.read(path).values.get("summary", ""), "path": str(path)}
        for id_, path in known.items()
    ]
    show.print_json(rows) if as_json else show.print_recipes(rows)


def plugins(
    context: typer.Context,
    component: Annotated[Optional[str], typer.Argument(help="Show this component's options.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """List plugins with their components, and those that are broken with the reason."""
    from sslkit.cli import show

    every = loaded(context)
    if component:
        described = show.of_component(every, component)
        show.print_json(described) if as_json else show.print_component(described)
        return
    listed = show.of_plugins(every)
    show.print_json(listed) if as_json else show.print_plugins(listed)
    if every.broken:
        raise typer.Exit(4)


def views(
    context: typer.Context,
    recipe: Recipe,
    sets: Sets = None,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("views.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="Images.")] = 6,
    epoch: Annotated[int, typer.Option(min=0, help="Views are drawn anew each epoch.")] = 0,
) -> None:
    """Draw a contact sheet: photos with their boxes, then every view exactly as the network will see it."""
    from sslkit import targets

    plan, text = targets.load(recipe, sets or [], loaded(context), data=True)
    from sslkit.data import contact_sheet
    from sslkit.data.opening import prepare

    source, proposals = prepare(plan, text)
    contact_sheet.sheet(plan, source, proposals, count, epoch).save(out)
    typer.echo(out)


COMMANDS = (run, probe, check, resolve, diff, schema, recipes, plugins, views)
