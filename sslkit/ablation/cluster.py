"""Train the runs of an ablation on a SLURM cluster, through submitit: one array, requeued when it is preempted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslkit.ablation.launch import LOG, Told, command
from sslkit.ablation.trials import Run
from sslkit.errors import PreemptedError, UsageError

JOB = "job.json"
"""In a run's folder: the job that trains it."""
_ALIVE = {"PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "COMPLETING", "PREEMPTED", "SUSPENDED"}
_POLL_S = 5.0


class Train:
    """What a job does: train a run's folder, and end behind a step with a checkpoint when it is preempted."""

    def __init__(self, options: Sequence[str]) -> None:
        self.options = list(options)
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self, folder: str) -> int:
        """Train, and return the exit code."""
        with (Path(folder) / LOG).open("ab") as log:
            args = [sys.executable, "-m", "sslkit", *command(Path(folder), self.options)]
            self.child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
            return self.child.wait()

    def checkpoint(self, folder: str) -> Any:
        """Stop the run behind its step, and say to submitit what is to be queued again."""
        import submitit

        if self.child is not None:
            self.child.terminate()
            self.child.wait()
        return submitit.helpers.DelayedSubmission(Train(self.options), folder)


class Slurm:
    """Submits runs as one array and waits for them.

    Args:
        logs: Folder of submitit's files.
        options: Of `sslkit run`, for every job.
        parameters: Of submitit's executor, such as `timeout_min` and `slurm_partition`.
        told: Called with one line per event.
        cluster: submitit's name of the cluster; "local" runs jobs on this machine, as a rehearsal.
    """

    def __init__(
        self, logs: Path, options: Sequence[str], parameters: Mapping[str, Any], told: Told, cluster: str = "slurm"
    ) -> None:
        self.logs, self.options, self.parameters = logs, options, parameters
        self.told, self.cluster = told, cluster

    def train(self, runs: Sequence[Run]) -> None:
        """Submit what is neither finished nor in the queue, and wait for all of it.

        Raises:
            UsageError: submitit is not installed, or refuses the parameters.
            PreemptedError: Waiting was interrupted; the jobs go on.
        """
        waiting = [run for run in runs if run.state != "finished"]
        jobs = {id(run): job for run in waiting if (job := self.known(run)) is not None}
        new = [run for run in waiting if id(run) not in jobs]
        if new:
            jobs.update(zip(map(id, new), self.submit(new), strict=True))
        try:
            self.wait([(run, jobs[id(run)]) for run in waiting])
        except KeyboardInterrupt:
            raise PreemptedError("the jobs go on; the same command waits for them and makes the table") from None

    def submit(self, runs: Sequence[Run]) -> list[Any]:
        """Submit one array."""
        executor = self.executor()
        jobs: list[Any] = executor.map_array(Train(self.options), [str(run.folder.path.resolve()) for run in runs])
        for run, job in zip(runs, jobs, strict=True):
            run.folder.write(JOB, {"job": job.job_id, "cluster": self.cluster, "logs": str(self.logs.resolve())})
            self.told(f"{run.arm}, seed {run.seed}: job {job.job_id}")
        return jobs

    def executor(self) -> Any:
        """Make submitit's executor with the parameters."""
        submitit = _submitit()
        try:
            executor = submitit.AutoExecutor(folder=self.logs, cluster=self.cluster)
            executor.update_parameters(name="sslkit", **self.parameters)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise UsageError(f"submitit: {error}") from None
        return executor

    def known(self, run: Run) -> Any:
        """Return the job that an earlier call submitted for a run, if it is still in the queue."""
        said = run.folder.read(JOB, {})
        if not said or said["cluster"] != self.cluster:
            return None
        submitit = _submitit()
        kind = submitit.SlurmJob if self.cluster == "slurm" else submitit.LocalJob
        job = kind(said["logs"], said["job"])
        if str(job.state).partition(" ")[0] not in _ALIVE:
            return None
        self.told(f"{run.arm}, seed {run.seed}: job {said['job']} is in the queue")
        return job

    def wait(self, jobs: Sequence[tuple[Run, Any]]) -> None:
        """Wait until every job has ended, and note the exit codes."""
        left = list(jobs)
        while left:
            for run, job in [item for item in left if item[1].done()]:
                left.remove((run, job))
                run.code = _code(job)
                self.told(f"{run.arm}, seed {run.seed}: {run.state}" + (f": {run.reason}" if run.reason else ""))
            if left:
                time.sleep(_POLL_S)


def _code(job: Any) -> int:
    try:
        return int(job.result())
    except Exception:  # submitit raises what the job raised, or its own words on a job that vanished
        return 1


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError("--launcher slurm needs submitit: pip install 'sslkit[slurm]'") from None
    return submitit
