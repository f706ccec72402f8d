"""`sslkit ablate`: variants of a recipe, trained beside it, in one table."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslkit.cli.options import CacheGB, Json, Sets, loaded
from sslkit.errors import PreemptedError, SslkitError, UsageError

if TYPE_CHECKING:
    from sslkit.ablation.trials import Ablation
    from sslkit.training.options import RunOptions

Words = list[str] | None


class Launcher(StrEnum):
    """Where runs are trained."""

    local = "local"
    pool = "local-pool"
    slurm = "slurm"


class Emit(StrEnum):
    """What can be printed instead of training."""

    sh = "sh"


def ablate(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="The full recipe: a path or name.")] = "univip_coco",
    drop: Annotated[Words, typer.Option(metavar="NAME[,NAME]", help="An arm without these; repeatable.")] = None,
    drop_each: Annotated[bool, typer.Option("--drop-each", help="One arm without each objective.")] = False,
    add: Annotated[Words, typer.Option(metavar="NAME[={...}]", help="An arm with this objective too.")] = None,
    swap: Annotated[Words, typer.Option(metavar="A=B", help="An arm with B in place of A.")] = None,
    vary: Annotated[Words, typer.Option(metavar="KEY=V,V", help="An arm for each value of a key.")] = None,
    arm: Annotated[Words, typer.Option(metavar="'NAME: CHANGES'", help="An arm with several changes.")] = None,
    factorial: Annotated[bool, typer.Option("--factorial", help="Every subset of the objectives.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every arm, from the recipe's on.")] = 1,
    sets: Sets = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print arms and what they take; train nothing.")] = False,
    emit: Annotated[Emit | None, typer.Option(help="Print the commands as a script; train nothing.")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Make the table of what is there; train nothing.")] = False,
    launcher: Annotated[Launcher, typer.Option(help="Where runs are trained.")] = Launcher.local,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; in a local-pool one per GPU.")] = None,
    slurm: Annotated[Words, typer.Option(metavar="KEY=VALUE", help="Of submitit, as timeout_min=600.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder of tables, figures and report.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[str, typer.Option(help="Devices per node and run: a number, or auto.")] = "auto",
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of a run.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp, or fsdp for large ViTs.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Loader processes per device.")] = None,
    cache_gb: CacheGB = 0.0,
    save_every: Annotated[int | None, typer.Option(min=1, help="Optimizer steps between checkpoints.")] = None,
    as_json: Json = False,
) -> None:
    """Train variants of a recipe beside it, on the same seeds, and put them into one table.

    What has been trained is reused, what was interrupted goes on, what fails is shown as failed.
    """
    if sum((plan, emit is not None, collect)) > 1:
        raise UsageError("write one of --plan, --emit and --collect")
    plugins = loaded(context)
    from sslkit import targets
    from sslkit.ablation import arms, launch, trials
    from sslkit.training.options import RunOptions

    asked = arms.Asked(drop or (), add or (), swap or (), vary or (), arm or (), drop_each, factorial)
    full, text = targets.load(recipe, sets or [], plugins)
    made = trials.make(text, arms.arms(text, full, plugins, asked), full.recipe.seed, seeds, runs, plugins)
    if not plan:
        targets.require_data(full, text)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    if plan:
        _print_plan(made, as_json)
        return
    trials.write_recipes(made)
    options = RunOptions(
        accelerator=accelerator, devices=devices, nodes=nodes, strategy=strategy, workers=workers, cache_gb=cache_gb,
        save_every=save_every,
    )  # fmt: skip
    if emit:
        typer.echo(launch.script(list(made.runs()), launch.arguments(options)), nl=False)
        return
    out = out or runs / text.name / f"ablation-{_name(made)}"
    if not collect:
        _train(made, launcher, jobs, slurm or [], options, out)
    _tell(made, out, as_json)


def _name(ablation: Ablation) -> str:
    """Name an ablation by its arms and seeds: the same question finds its answer again."""
    parts = [*(variant.digest for variant in ablation.variants), *map(str, ablation.seeds)]
    return hashlib.blake2b("".join(parts).encode(), digest_size=4).hexdigest()


def _train(
    ablation: Ablation, launcher: Launcher, jobs: int | None, slurm: Sequence[str], options: RunOptions, out: Path
) -> None:
    from sslkit.ablation import cluster, launch

    runs = list(ablation.runs())

    def told(line: str) -> None:
        typer.echo(line, err=True)

    if launcher is Launcher.slurm:
        parameters, name = cluster.asked(slurm, options)
        cluster.Slurm(out / "slurm", launch.arguments(options), parameters, told, name).train(runs)
        return
    if any(run.state != "finished" for run in runs):
        _prepare(ablation)
    count = jobs or (launch.default_jobs() if launcher is Launcher.pool else 1)
    launch.Pool(count, launch.arguments(options), told).train(runs)


def _prepare(ablation: Ablation) -> None:
    """Make what the runs read before any of them begins; an arm that lacks something says so in its own run."""
    from sslkit.data.opening import prepare

    seen: list[Any] = []
    for number, variant in enumerate(ablation.variants):
        resolved = variant.plan.resolved()
        reads = [resolved["source"], resolved.get("proposals")]
        if reads in seen:
            continue
        seen.append(reads)
        try:
            prepare(variant.plan, ablation.full)
        except SslkitError:
            if number == 0:
                raise


def _tell(ablation: Ablation, out: Path, as_json: bool) -> None:
    """Write and print what came of it.

    Raises:
        PreemptedError: Some runs were stopped.
        SslkitError: Some runs failed.
    """
    from sslkit import report as paper
    from sslkit.ablation import trials
    from sslkit.ablation.results import dump
    from sslkit.cli import show

    results = trials.results(ablation, shlex.join(["sslkit", *sys.argv[1:]]))
    written = paper.write(results, out)
    if as_json:
        show.print_json(dump(results))
    else:
        paper.print_results(results)
        typer.echo(f"{', '.join(path.name for path in written)} are in {out}")
    states = [run.state for run in ablation.runs()]
    if any(state != "finished" and state != "failed" for state in states):
        left = sum(state != "finished" for state in states)
        raise PreemptedError(f"{left} of {len(states)} runs are not finished; the same command goes on")
    if "failed" in states:
        raise SslkitError(f"{states.count('failed')} of {len(states)} runs failed; the same command tries them again")


def _print_plan(ablation: Ablation, as_json: bool) -> None:
    from sslkit.ablation.estimate import estimate
    from sslkit.cli import show

    listed = show.of_ablation(ablation, estimate(ablation.variants))
    show.print_json(listed) if as_json else show.print_ablation(listed)
