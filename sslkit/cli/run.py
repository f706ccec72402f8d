"""`sslkit run`: train a recipe, on this machine or as a SLURM job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_message, print_notes

if TYPE_CHECKING:
    from sslkit.ablation.plan import PlannedRun
    from sslkit.storage.run_folder import RunFolder
    from sslkit.training.options import RunOptions
    from sslkit.training.result import Result


def run(
    context: typer.Context,
    recipe: opt.RecipeOrRun,
    sets: opt.Sets = None,
    runs: opt.RunsFolder = Path("runs"),
    arm: Annotated[str, typer.Option(help="Name of this variant; the run's folder is RUNS/RECIPE/ARM-sSEED.")] = "full",
    accelerator: opt.Accelerator = "auto",
    devices: opt.Devices = "auto",
    nodes: opt.Nodes = 1,
    strategy: opt.Strategy = "auto",
    workers: opt.Workers = None,
    cache_gb: opt.CacheGB = 0.0,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop after this optimizer step; resumable.")] = None,
    save_every: opt.SaveEvery = None,
    keep: Annotated[int, typer.Option(min=1, help="Number of newest checkpoints to keep.")] = 2,
    keep_every: Annotated[int | None, typer.Option(min=1, help="Also keep every n-th checkpoint permanently.")] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Optimizer steps between records of the metrics.")] = 1,
    monitor_every: opt.MonitorEvery = 50,
    probe_every: opt.ProbeEvery = None,
    on_collapse: opt.OnCollapse = "warn",
    on_divergence: opt.OnDivergence = "stop",
    max_rollbacks: Annotated[int, typer.Option(min=1, help="Batches that --on-divergence rollback may skip.")] = 3,
    on_changed_images: opt.OnChangedImages = "stop",
    compiled: opt.Compile = False,
    checkpoint_activations: opt.CheckpointActivations = False,
    cuda_graph: opt.CudaGraph = False,
    launcher: Annotated[Literal["local", "slurm"], opt.LAUNCHER] = "local",
    slurm: opt.Slurm = None,
    as_json: opt.Json = False,
) -> None:
    """Train a recipe, or resume a run that was interrupted.

    To resume, repeat the command, or name the run's folder in place of the recipe.
    """
    from sslkit import targets

    plugins = loaded_plugins(context)
    plan, text = targets.load(recipe, sets or [], plugins, data=True)
    from sslkit.ablation.plan import PlannedRun
    from sslkit.cli.show.runs import describe_result, print_result
    from sslkit.cli.show.tables import print_json
    from sslkit.training.options import RunOptions
    from sslkit.training.trainer import train

    folder = _folder(recipe, runs, text.name, arm, plan.recipe.seed)
    options = RunOptions(
        accelerator=accelerator, devices=devices, nodes=nodes, strategy=strategy,
        workers=workers, cache_gb=cache_gb, stop_after=stop_after,
        save_every=save_every, keep=keep, keep_every=keep_every,
        log_every=log_every, monitor_every=monitor_every, probe_every=probe_every, on_collapse=on_collapse,
        on_divergence=on_divergence, max_rollbacks=max_rollbacks, on_changed_images=on_changed_images,
        compile=compiled, checkpoint_activations=checkpoint_activations, cuda_graph=cuda_graph,
    )  # fmt: skip
    print_notes(plan.notes)
    if launcher == "slurm":
        result = _train_as_job(PlannedRun(arm, plan.recipe.seed, plan, folder), options, slurm or [])
    else:
        result = train(plan, text, plugins, folder, options)
    if result.rank == 0:
        print_json(describe_result(result)) if as_json else print_result(result)


def _folder(recipe: str, runs: Path, name: str, arm: str, seed: int) -> RunFolder:
    """Return the folder to train in: `recipe` itself if it is a run's folder."""
    from sslkit.storage.run_folder import RunFolder

    return RunFolder(Path(recipe)) if Path(recipe).is_dir() else RunFolder.of(runs, name, arm, seed)


def _train_as_job(run: PlannedRun, options: RunOptions, slurm: list[str]) -> Result:
    """Submit a run and wait for it to finish; a run that is already in the queue is not submitted again.

    Raises:
        PreemptedError: The job, or waiting for it, was stopped.
        SslkitError: The job failed; the exit code is the job's.
    """
    from sslkit.ablation import cluster, launch
    from sslkit.errors import PreemptedError, SslkitError
    from sslkit.training.result import finished

    parameters, name = cluster.submit_parameters(slurm, options)
    run.folder.refuse_other(run.plan.resolved())
    run.folder.remove_other(run.plan.resolved())
    was_finished = run.state == "finished"
    run.write_recipe()
    jobs = cluster.Slurm(run.folder.path / "slurm", launch.arguments(options), parameters, print_message, name)
    jobs.train([run])
    if run.state == "failed":
        error = SslkitError(f"the job failed: {run.folder.status().get('reason') or f'see {jobs.logs}'}")
        error.exit_code = run.folder.status().get("code", 1)
        raise error
    if run.state != "finished":
        raise PreemptedError("the job was stopped; the same command submits it again and resumes the run")
    result = finished(run.folder)
    return result if was_finished else replace(result, resumed_from=0)
