"""`sslkit ablate`: train variants of a recipe and compare them in one table."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_message, print_notes
from sslkit.errors import UsageError
from sslkit.files import make_folder

if TYPE_CHECKING:
    from sslkit.ablation.plan import Ablation
    from sslkit.ablation.requests import ArmRequests
    from sslkit.plugins import Plugins
    from sslkit.training.options import RunOptions

Changes = list[str] | None


class Launcher(StrEnum):
    """Ways to launch runs."""

    local = "local"
    pool = "local-pool"
    slurm = "slurm"


class Emit(StrEnum):
    """Forms of the commands to print instead of training."""

    sh = "sh"


Drop = Annotated[Changes, typer.Option(metavar="NAME[,NAME]", help="An arm without these objectives; repeatable.")]
DropEach = Annotated[bool, typer.Option("--drop-each", help="One arm without each objective.")]
Add = Annotated[Changes, typer.Option(metavar="NAME[={...}]", help="An arm with one more objective; repeatable.")]
Swap = Annotated[Changes, typer.Option(metavar="A=B", help="An arm with B in place of A; repeatable.")]
Vary = Annotated[Changes, typer.Option(metavar="KEY=V,V", help="An arm per value of a key; repeatable.")]
Combine = Annotated[Changes, typer.Option(metavar="'NAME: CHANGES'", help="An arm with several changes; repeatable.")]
Factorial = Annotated[bool, typer.Option("--factorial", help="One arm per non-empty subset of objectives.")]
EmitOnly = Annotated[
    Emit | None, typer.Option(callback=opt.results_alone, help="Print the commands as a script; train nothing.")
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print the arms and their costs; train nothing.")]
Collect = Annotated[bool, typer.Option("--collect", help="Make the table from the runs so far; train nothing.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, max=256, help="Runs at a time; by default one, or one per GPU with local-pool.")
]


def ablate(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="The full recipe: a path or name.")] = "univip_coco",
    drop: Drop = None,
    drop_each: DropEach = False,
    add: Add = None,
    swap: Swap = None,
    vary: Vary = None,
    arm: Combine = None,
    factorial: Factorial = False,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Seeds per arm, counted from the recipe's seed.")] = 1,
    sets: opt.Sets = None,
    plan: PlanOnly = False,
    emit: EmitOnly = None,
    collect: Collect = False,
    launcher: Annotated[Launcher, opt.LAUNCHER] = Launcher.local,
    jobs: Jobs = None,
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
    probe_every: opt.ProbeEvery = None,
    as_json: opt.Json = False,
) -> None:
    """Train variants of a recipe and compare them in one table.

    All variants use the same seeds. Finished runs are reused, interrupted runs are resumed, and failed runs are shown
    as failed.
    """
    if sum((plan, emit is not None, collect)) > 1:
        raise UsageError("write only one of --plan, --emit and --collect")
    from sslkit.ablation import execute
    from sslkit.ablation.requests import ArmRequests
    from sslkit.training.options import RunOptions

    requests = ArmRequests(drop or (), add or (), swap or (), vary or (), arm or (), drop_each, factorial)
    ablation = _plan(recipe, sets or [], loaded_plugins(context), requests, seeds, runs, data=not plan)
    if plan:
        _print_plan(ablation, as_json)
        return
    options = RunOptions(
        accelerator=accelerator, devices=devices, nodes=nodes, strategy=strategy, workers=workers, cache_gb=cache_gb,
        save_every=save_every, probe_every=probe_every,
    )  # fmt: skip
    if emit:
        ablation.write_recipes()
        _print_script(ablation, options)
        return
    out, option = (out, "--out") if out else (execute.report_folder(runs, ablation), "--runs")
    make_folder(out, option)
    ablation.write_recipes()
    if not collect:
        _train(ablation, launcher, jobs, slurm or [], options, out)
    _report(ablation, out, as_json)


def _plan(
    recipe: str, sets: list[str], plugins: Plugins, requests: ArmRequests, seeds: int, runs: Path, *, data: bool
) -> Ablation:
    """Plan every arm at every seed, and print notes; `data` also checks that the full recipe's images are there."""
    from sslkit import targets
    from sslkit.ablation.arm_planner import make_arms
    from sslkit.ablation.plan import plan_ablation

    full, text = targets.load(recipe, sets, plugins)
    arms = make_arms(text, full, plugins, requests)
    ablation = plan_ablation(text, arms, full.recipe.seed, seeds, runs, plugins)
    if data:
        targets.require_data(full, text)
    print_notes(ablation.notes)
    return ablation


def _print_script(ablation: Ablation, options: RunOptions) -> None:
    from sslkit.ablation import launch
    from sslkit.cli.show.tables import print_result

    print_result(launch.script(list(ablation.runs()), launch.arguments(options)))


def _print_plan(ablation: Ablation, as_json: bool) -> None:
    from sslkit.ablation.estimate import estimate
    from sslkit.cli.show.ablations import describe_ablation, print_ablation
    from sslkit.cli.show.tables import print_json

    listed = describe_ablation(ablation, estimate(ablation.variants))
    print_json(listed) if as_json else print_ablation(listed)


def _train(
    ablation: Ablation, launcher: Launcher, jobs: int | None, slurm: list[str], options: RunOptions, out: Path
) -> None:
    """Train the runs that are not finished."""
    from sslkit.ablation import cluster, execute, launch

    if launcher is Launcher.slurm:
        parameters, name = cluster.submit_parameters(slurm, options)
        cluster.Slurm(out / "slurm", launch.arguments(options), parameters, print_message, name).train(
            list(ablation.runs())
        )
        return
    count = jobs or (launch.default_jobs() if launcher is Launcher.pool else 1)
    execute.train_runs(ablation, options, count, print_message)


def _report(ablation: Ablation, out: Path, as_json: bool) -> None:
    """Write the report of an ablation, print its results, and fail if a run is not finished."""
    from sslkit import report
    from sslkit.ablation import execute
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
    execute.check_finished(ablation)
