"""`sslkit verify`: whether what a run promises holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sslkit.cli.options import Json, Sets, loaded

verify = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show that what a run promises holds.")


def _say(line: str) -> None:
    typer.echo(line, err=True)


@verify.command()
def replay(
    context: typer.Context,
    record: Annotated[Path, typer.Argument(help="A folder `diverged-step-...` in a run's folder.")],
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[str, typer.Option(help="As many as the run had.")] = "auto",
    strategy: Annotated[str, typer.Option(help="auto, ddp, ...: Lightning Fabric's names.")] = "auto",
    workers: Annotated[Optional[int], typer.Option(min=0, help="Loader processes per device.")] = 0,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Do a step that was not finite again, and name the first module that made something non-finite.

    Ends with code 1 when the figures are not those of the record.
    """
    from sslkit.errors import DataError

    if not (record / "recipe.toml").is_file():
        raise DataError(f"{record} is no flight record: those are folders diverged-step-... in a run's folder")
    from sslkit import targets

    plan, text = targets.load(str(record), [], loaded(context), data=True)
    from sslkit.cli import show
    from sslkit.training.options import RunOptions
    from sslkit.verify import replay as replaying

    options = RunOptions(accelerator=accelerator, devices=devices, strategy=strategy, workers=workers)
    made = replaying.again(plan, text, record, options)
    if made.rank == 0:
        show.print_json(show.of_replayed(made)) if as_json else show.print_replayed(made)
    if made.differs or not made.same_images:
        raise typer.Exit(1)


@verify.command()
def resume(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's path or name.")],
    sets: Sets = None,
    kills: Annotated[
        int, typer.Option(min=1, help="How often the run is killed; every third time inside a save.")
    ] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of both runs, at most.")] = 60,
    save_every: Annotated[int, typer.Option(min=1, help="Optimizer steps between checkpoints.")] = 5,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of both runs; one that is deleted by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a recipe twice, once without and once with kills at random moments, and compare the two bit for bit.

    Ends with code 1 when anything differs: weights, target, optimizer, queues, counts or metrics.
    """
    from sslkit import targets
    from sslkit.errors import UsageError

    plan, text = targets.load(recipe, sets or [], loaded(context), data=True)
    from tempfile import TemporaryDirectory

    from sslkit.cli import show
    from sslkit.data.opening import prepare
    from sslkit.verify import resume as resuming

    prepare(plan, text)
    if out and any(out.glob("*")):
        raise UsageError(f"--out {out} is not empty: both runs are to begin anew")
    options = ["--stop-after", str(steps), "--save-every", str(save_every), "--workers", str(workers)]
    given = [part for item in sets or [] for part in ("--set", item)]
    with TemporaryDirectory() as aside:
        command = ["run", recipe, *given, *options]
        made = resuming.compare(command, out or Path(aside), steps, kills, seed, _say)
    show.print_json(show.of_comparison(made)) if as_json else show.print_comparison(made)
    if made.differs:
        raise typer.Exit(1)


@verify.command("world-size")
def world_size(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's path or name.")],
    sets: Sets = None,
    sizes: Annotated[str, typer.Option(help="Numbers of processes; each is compared with the first.")] = "1,2",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 3,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Take the same global batches on one process and on several, and name what makes them differ.

    Both networks compute in float64, so that rounding hides nothing. Ends with code 1 when anything differs.
    """
    from sslkit import targets

    counts = _counts(sizes)
    plan, text = targets.load(recipe, sets or [], loaded(context), data=True)
    from tempfile import TemporaryDirectory

    from sslkit.cli import show
    from sslkit.data.opening import prepare
    from sslkit.training.hardware import check_batch
    from sslkit.verify import world_size as worldsize

    for count in counts:
        check_batch(plan.recipe.batch_size, plan.recipe.accumulate, count)
    prepare(plan, text)
    given = [part for item in sets or [] for part in ("--set", item)]
    command = ["verify", "trace", recipe, *given, "--steps", str(steps), "--accelerator", accelerator]
    with TemporaryDirectory() as aside:
        made = worldsize.compare(command, Path(aside), counts, _say)
    show.print_json(show.of_world_sizes(made)) if as_json else show.print_world_sizes(made)
    if any(item.first for item in made):
        raise typer.Exit(1)


def _counts(sizes: str) -> list[int]:
    """Read numbers of processes."""
    from sslkit.errors import UsageError

    parts = sizes.split(",")
    if len(parts) < 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UsageError(f"--sizes {sizes}: write two or more numbers of processes, as in --sizes 1,2")
    return [int(part) for part in parts]


@verify.command(hidden=True)
def trace(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's path or name.")],
    out: Annotated[Path, typer.Option(help="File for what the steps are made of.")],
    sets: Sets = None,
    steps: Annotated[int, typer.Option(min=1)] = 3,
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    whole_batch_norm: Annotated[bool, typer.Option("--whole-batch-norm")] = False,
) -> None:
    """Take steps and write down what they are made of, for `world-size`."""
    from sslkit import targets

    plan, text = targets.load(recipe, sets or [], loaded(context), data=True)
    from sslkit.storage import checkpoint
    from sslkit.training.options import RunOptions
    from sslkit.verify import trace as tracing

    options = RunOptions(accelerator=accelerator, devices=devices, strategy=strategy, workers=0, monitor_every=0)
    made, rank = tracing.trace(plan, text, options, steps, whole_batch_norm)
    if rank == 0:
        checkpoint.save(out, {"step": steps, "steps": made})
