"""`sslkit verify`: test exact replay, exact resume, and equal results on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_message, set_arguments
from sslkit.errors import DataError, UsageError
from sslkit.files import make_folder

verify = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Verify replay, resume and equal results across ranks."
)


@verify.command()
def replay(
    context: typer.Context,
    record: Annotated[Path, typer.Argument(help="A folder `diverged-step-...` in a run's folder.")],
    accelerator: opt.Accelerator = "auto",
    devices: opt.Devices = "auto",
    strategy: opt.Strategy = "auto",
    workers: opt.Workers = 0,
    as_json: opt.Json = False,
) -> None:
    """Repeat a diverged step and find the first non-finite output.

    Use as many devices as the run had. Ends with code 1 if values or images differ from the record.
    """
    from sslkit.storage.run_folder import RunFolder

    if not RunFolder(record).resolved():
        raise DataError(f"{record} is not a flight record; write a folder diverged-step-... in a run's folder")
    from sslkit import targets

    plan, text = targets.load(str(record), [], loaded_plugins(context), data=True)
    from sslkit.cli.show.tables import print_json
    from sslkit.cli.show.verify import describe_replay, print_replay
    from sslkit.training.options import RunOptions
    from sslkit.verify.replay import replay as replay_record

    options = RunOptions(accelerator=accelerator, devices=devices, strategy=strategy, workers=workers)
    result = replay_record(plan, text, record, options)
    if result.rank == 0:
        print_json(describe_replay(result)) if as_json else print_replay(result)
    if result.differs or not result.same_images:
        raise typer.Exit(1)


@verify.command()
def resume(
    context: typer.Context,
    recipe: opt.RecipeName,
    sets: opt.Sets = None,
    kills: Annotated[
        int | None, typer.Option(min=1, help="Number of kills; every third is during a save. 10, if they fit.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of both runs, at most.")] = 60,
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps between checkpoints; 5, or fewer in a short run.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Loader processes per device.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed for the times of the kills.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of both runs; a temporary one by default.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Compare a killed and resumed run with an uninterrupted one.

    Both train the recipe; one is killed at random moments, each after a checkpoint that it then resumes from. Ends with
    code 1 unless they are the same, bit for bit: weights, target, optimizer, queues, counts and metrics; and if fewer
    kills than asked for led to a resume.
    """
    from sslkit import targets

    plan, text = targets.load(recipe, sets or [], loaded_plugins(context), data=True)
    from sslkit.cli.show.tables import print_json
    from sslkit.cli.show.verify import describe_resume, print_resume
    from sslkit.data.epochs import Epochs
    from sslkit.data.opening import prepare
    from sslkit.training.options import DeviceOptions
    from sslkit.training.precision import recorded, settle_alone
    from sslkit.verify.resume import compare, fitting

    if out:
        make_folder(out, "--out")
        if any(out.iterdir()):
            raise UsageError(f"--out {out} is not empty: both runs must start from scratch")
    source, _ = prepare(plan, text)
    steps = min(steps, plan.recipe.total_steps(Epochs.of(plan.recipe, len(source), 0, 1).steps))
    kills, save_every = fitting(steps, kills, save_every)
    options = ["--stop-after", str(steps), "--save-every", str(save_every), "--workers", str(workers)]
    auto = recorded(vars(settle_alone(plan, DeviceOptions()).recipe))  # both runs must compute alike
    choice = [f"{name}={value}" for name, value in auto.keys.items()] if auto else []
    command = ["run", recipe, *set_arguments([*(sets or []), *choice]), *options]
    with TemporaryDirectory() as temporary:
        comparison = compare(command, out or Path(temporary), steps, save_every, kills, seed, print_message)
    print_json(describe_resume(comparison)) if as_json else print_resume(comparison)
    if comparison.differs or not comparison.is_enough:
        raise typer.Exit(1)


@verify.command("world-size")
def world_size(
    context: typer.Context,
    recipe: opt.RecipeName,
    sets: opt.Sets = None,
    sizes: Annotated[str, typer.Option(help="Numbers of ranks; each is compared with the first.")] = "1,2",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 3,
    accelerator: opt.Accelerator = "auto",
    as_json: opt.Json = False,
) -> None:
    """Compare the same steps on one rank and on several.

    All take the same global batches. Both networks compute in float64, so that rounding hides nothing. Names what
    makes the results differ, and ends with code 1 if anything does.
    """
    from sslkit import targets

    counts = _counts(sizes)
    plan, text = targets.load(recipe, sets or [], loaded_plugins(context), data=True)
    from sslkit.cli.show.tables import print_json
    from sslkit.cli.show.verify import describe_world_sizes, print_world_sizes
    from sslkit.data.opening import prepare
    from sslkit.training.hardware import check_batch
    from sslkit.verify.world_size import compare

    for count in counts:
        check_batch(plan.recipe.batch_size, plan.recipe.accumulate, count)
    prepare(plan, text)
    options = ["--steps", str(steps), "--accelerator", accelerator]
    command = ["verify", "trace", recipe, *set_arguments(sets), *options]
    with TemporaryDirectory() as temporary:
        comparisons = compare(command, Path(temporary), counts, print_message)
    print_json(describe_world_sizes(comparisons)) if as_json else print_world_sizes(comparisons)
    if any(item.first for item in comparisons):
        raise typer.Exit(1)


def _counts(sizes: str) -> list[int]:
    """Parse two or more numbers of ranks."""
    parts = sizes.split(",")
    if len(parts) < 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UsageError(f"--sizes {sizes}: write two or more numbers of ranks, as in --sizes 1,2")
    return [int(part) for part in parts]


@verify.command(hidden=True)
def trace(
    context: typer.Context,
    recipe: opt.RecipeName,
    out: Annotated[Path, typer.Option(help="File to write the traces of the steps to.")],
    sets: opt.Sets = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 3,
    accelerator: opt.Accelerator = "auto",
    devices: opt.Devices = "auto",
    strategy: opt.Strategy = "auto",
    whole_batch_norm: Annotated[
        bool, typer.Option("--whole-batch-norm", help="Normalize over the batch of all ranks.")
    ] = False,
) -> None:
    """Trace steps for `sslkit verify world-size`."""
    from sslkit import targets

    plan, text = targets.load(recipe, sets or [], loaded_plugins(context), data=True)
    from sslkit.storage import checkpoint
    from sslkit.training.options import RunOptions
    from sslkit.verify.trace import trace as trace_steps

    options = RunOptions(accelerator=accelerator, devices=devices, strategy=strategy, workers=0, monitor_every=0)
    traces, rank = trace_steps(plan, text, options, steps, whole_batch_norm)
    if rank == 0:
        checkpoint.save(out, {"step": steps, "steps": traces})
