"""Execute an ablation on this machine: prepare its data, train its runs, and say what is unfinished."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sslkit.ablation import launch
from sslkit.ablation.plan import Ablation
from sslkit.data.opening import prepare
from sslkit.errors import PreemptedError, SslkitError
from sslkit.training.options import RunOptions


def report_folder(runs: Path, ablation: Ablation) -> Path:
    """Return the folder of an ablation's report: the same arms and seeds have the same folder."""
    parts = [*(variant.digest for variant in ablation.variants), *map(str, ablation.seeds)]
    name = hashlib.blake2b("".join(parts).encode(), digest_size=4).hexdigest()
    return runs / ablation.full.name / f"ablation-{name}"


def train_runs(ablation: Ablation, options: RunOptions, jobs: int, say: Callable[[str], None]) -> None:
    """Train the runs that are not finished, each in a process of its own.

    Args:
        ablation: Its runs; those that are finished are left alone.
        options: Of each run.
        jobs: Runs at a time.
        say: Receives messages.
    """
    runs = list(ablation.runs())
    if any(run.state != "finished" for run in runs):
        prepare_data(ablation)
    launch.Pool(jobs, launch.arguments(options), say).train(runs)


def prepare_data(ablation: Ablation) -> None:
    """Prepare the data of all runs before the first one starts.

    An arm whose data cannot be prepared does not stop the others: its own run reports the error.

    Raises:
        DataError: The data of the first arm, the full recipe, cannot be prepared.
    """
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


def check_finished(ablation: Ablation) -> None:
    """Check that every run is finished.

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
