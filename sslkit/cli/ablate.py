"""`sslkit ablate`: train variants of a recipe and compare them in one table."""

from __future__ import annotations

import hashlib
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_message, print_notes
from sslkit.errors import PreemptedError, SslkitError, UsageError

if TYPE_CHECKING:
    from sslkit.ablation.plan import Ablation
    from sslkit.training.options import RunOptions

Changes = list[str] | None


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
    drop: Annotated[Changes, typer.Option(metavar="NAME[,NAME]", help="An arm without these; repeatable.")] = None,
    drop_each: Annotated[bool, typer.Option("--drop-each", help="One arm without each objective.")] = False,
    add: Annotated[
        Changes, typer.Option(metavar="NAME[={...}]", help="An arm with one more objective; repeatable.")
    ] = None,
    swap: Annotated[Changes, typer.Option(metavar="A=B", help="An arm with B in place of A; repeatable.")] = None,
    vary: Annotated[Changes, typer.Option(metavar="KEY=V,V", help="An arm per value of a key; repeatable.")] = None,
    arm: Annotated[
        Changes, typer.Option(metavar="'NAME: CHANGES'", help="An arm with several changes; repeatable.")
    ] = None,
    factorial: Annotated[bool, typer.Option("--factorial", help="One arm per non-empty subset of objectives.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per arm, counted from the recipe's seed.")] = 1,
    sets: opt.Sets = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the arms and what they cost; train nothing.")] = False,
    emit: Annotated[Emit | None, typer.Option(help="Print the commands as a script; train nothing.")] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Make the table from the runs so far; train nothing.")
    ] = False,
    launcher: Annotated[Launcher, opt.LAUNCHER] = Launcher.local,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; by default one, or one per GPU with local-pool.")
    ] = None,
    slurm: opt.Slurm = None,
    runs: opt.RunsFolder = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder of tables, figures and report.")] = None,
    accelerator: opt.Accelerator = "auto",
    devices: opt.Devices = "auto",
    nodes: opt.Nodes = 1,
    strategy: opt.Strategy = "auto",
    workers: opt.Workers = None,
    cache_gb: opt.CacheGB = 0.0,
    save_every: opt.SaveEvery = None,
    as_json: opt.Json = False,
) -> None:
    """Train variants of a recipe and compare them in one table.

    All variants use the same seeds. Finished runs are reused, interrupted runs are resumed, and failed runs are shown
    as failed.
    """
    if sum((plan, emit is not None, collect)) > 1:
        raise UsageError("write only one of --plan, --emit and --collect")
    from sslkit import targets
    from sslkit.ablation import launch
    from sslkit.ablation.arm_planner import make_arms
    from sslkit.ablation.plan import plan_ablation
    from sslkit.ablation.requests import ArmRequests
    from sslkit.training.options import RunOptions

    plugins = loaded_plugins(context)
    requests = ArmRequests(drop or (), add or (), swap or (), vary or (), arm or (), drop_each, factorial)
    full, text = targets.load(recipe, sets or [], plugins)
    arms = make_arms(text, full, plugins, requests)
    ablation = plan_ablation(text, arms, full.recipe.seed, seeds, runs, plugins)
    if not plan:
        targets.require_data(full, text)
    print_notes(ablation.notes)
    if plan:
        _print_plan(ablation, as_json)
        return
    ablation.write_recipes()
    options = RunOptions(
        accelerator=accelerator, devices=devices, nodes=nodes, strategy=strategy, workers=workers, cache_gb=cache_gb,
        save_every=save_every,
    )  # fmt: skip
    if emit:
        typer.echo(launch.script(list(ablation.runs()), launch.arguments(options)), nl=False)
        return
    out = out or runs / text.name / f"ablation-{_name(ablation)}"
    if not collect:
        _train(ablation, launcher, jobs, slurm or [], options, out)
    _report(ablation, out, as_json)
    _raise_unfinished(ablation)


def _print_plan(ablation: Ablation, as_json: bool) -> None:
    from sslkit.ablation.estimate import estimate
    from sslkit.cli.show.ablations import describe_ablation, print_ablation
    from sslkit.cli.show.tables import print_json

    listed = describe_ablation(ablation, estimate(ablation.variants))
    print_json(listed) if as_json else print_ablation(listed)


def _name(ablation: Ablation) -> str:
    """Return a hash of an ablation's arms and seeds: the same command writes to the same folder again."""
    parts = [*(variant.digest for variant in ablation.variants), *map(str, ablation.seeds)]
    return hashlib.blake2b("".join(parts).encode(), digest_size=4).hexdigest()


def _train(
    ablation: Ablation, launcher: Launcher, jobs: int | None, slurm: list[str], options: RunOptions, out: Path
) -> None:
    """Train the runs that are not finished."""
    from sslkit.ablation import cluster, launch

    runs = list(ablation.runs())
    arguments = launch.arguments(options)
    if launcher is Launcher.slurm:
        parameters, name = cluster.submit_parameters(slurm, options)
        cluster.Slurm(out / "slurm", arguments, parameters, print_message, name).train(runs)
        return
    if any(run.state != "finished" for run in runs):
        _prepare(ablation)
    count = jobs or (launch.default_jobs() if launcher is Launcher.pool else 1)
    launch.Pool(count, arguments, print_message).train(runs)


def _prepare(ablation: Ablation) -> None:
    """Prepare the data of all runs before the first one starts.

    An arm whose data cannot be prepared does not stop the others: its own run reports the error. The first arm raises.
    """
    from sslkit.data.opening import prepare

    prepared: list[Any] = []
    for number, variant in enumerate(ablation.variants):
        resolved = variant.plan.resolved()
        data = [resolved["source"], resolved.get("proposals")]
        if data in prepared:
            continue
        prepared.append(data)
        try:
            prepare(variant.plan, ablation.full)
        except SslkitError:
            if number == 0:
                raise


def _report(ablation: Ablation, out: Path, as_json: bool) -> None:
    """Write the report of an ablation, and print its results."""
    from sslkit import report
    from sslkit.ablation.collect import collect_results
    from sslkit.ablation.results import dump
    from sslkit.cli.show.tables import print_json

    results = collect_results(ablation, shlex.join(["sslkit", *sys.argv[1:]]))
    files = report.write(results, out)
    if as_json:
        print_json(dump(results))
    else:
        report.print_results(results)
        typer.echo(f"{', '.join(path.name for path in files)} are in {out}")


def _raise_unfinished(ablation: Ablation) -> None:
    """End with an error unless every run is finished.

    Raises:
        PreemptedError: Some runs were stopped.
        SslkitError: Some runs failed.
    """
    states = [run.state for run in ablation.runs()]
    unfinished = len(states) - states.count("finished")
    failed = states.count("failed")
    if unfinished > failed:
        raise PreemptedError(f"{unfinished} of {len(states)} runs are not finished; the same command continues")
    if failed:
        raise SslkitError(f"{failed} of {len(states)} runs failed; the same command tries them again")
