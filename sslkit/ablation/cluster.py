"""Train runs on a SLURM cluster, through submitit: one array, each job of it queued again when it is preempted.

SLURM tells a job in two ways that it has to go. Before its time limit it sends the signal that submitit asks for, and
submitit has `Train.checkpoint` stop the run behind its step, and the job queued again. When it preempts or cancels a
job it sends SIGTERM, and SIGKILL some time later: `Train` stops the run then, too, and leaves the job to SLURM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from sslkit.ablation.launch import LOG, Told, command
from sslkit.ablation.trials import PlannedRun
from sslkit.data.loader import ASKING
from sslkit.errors import PreemptedError, SslkitError, UsageError
from sslkit.planning.recipe import value
from sslkit.training.options import RunOptions

JOB = "job.json"
"""In a run's folder: the job that trains it."""
_ALIVE = {"PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "COMPLETING", "PREEMPTED", "SUSPENDED"}
_POLL_S = 5.0
_STOP = signal.SIGINT
"""What asks a run to stop: SLURM does not send it by itself."""
_LONGEST_GRACE_S = 3600.0
_DEFAULTS = {"slurm_srun_args": ["--kill-on-bad-exit=1"]}
_MOST_TIMEOUTS = 1000
"""So many time limits a run may take; submitit's own 3 would end runs of days on queues of hours."""


class Train:
    """What a job does: train a run's folder, and end behind a step with a checkpoint when it has to go."""

    def __init__(self, options: Sequence[str]) -> None:
        self.options = list(options)
        self.child: subprocess.Popen[bytes] | None = None
        self.told_to_end = False

    def __call__(self, folder: str) -> int:
        """Train, and return the exit code: 0, or 75 where the run was stopped.

        Raises:
            SslkitError: The run failed. The job fails with it, so that `srun` ends those of its other processes.
        """
        before = signal.signal(signal.SIGTERM, self._end)
        try:
            code = self._train(Path(folder))
        finally:
            signal.signal(signal.SIGTERM, before)
        if code not in (0, PreemptedError.exit_code):
            raise SslkitError(f"exit code {code}: see {Path(folder) / LOG}")
        return code

    def _train(self, folder: Path) -> int:
        with (folder / LOG).open("ab") as log:
            args = [sys.executable, "-m", "sslkit", *command(folder, self.options)]
            self.child = subprocess.Popen(  # noqa: S603
                args, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=_hear_only_us,
            )  # fmt: skip
            code = self.child.wait()
        if self.told_to_end:
            time.sleep(_LONGEST_GRACE_S)  # a job that ends by itself is not queued again
        return code

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.told_to_end = True
        self._stop()

    def _stop(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(_STOP)

    def checkpoint(self, folder: str) -> Any:
        """Stop the run behind its step, and say to submitit what is to be queued again."""
        import submitit

        if self.child is not None:
            self._stop()
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)  # we are called amidst `Popen.wait`
        return submitit.helpers.DelayedSubmission(Train(self.options), folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "child": None}


def _hear_only_us() -> None:
    """Ignore the signals that SLURM may send to every process of a job: a second one would end the run at once."""
    for number in ASKING:
        if number != _STOP:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(_STOP, signal.SIG_DFL)


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

    def train(self, runs: Sequence[PlannedRun]) -> None:
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

    def submit(self, runs: Sequence[PlannedRun]) -> list[Any]:
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
            parameters = {"slurm_max_num_timeout": _MOST_TIMEOUTS, **_DEFAULTS, **self.parameters}
            given = {name: parameters.pop(name) for name in list(parameters) if name.endswith("_max_num_timeout")}
            executor = submitit.AutoExecutor(folder=self.logs, cluster=self.cluster, **given)
            executor.update_parameters(name="sslkit", **parameters)
        except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
            raise UsageError(f"submitit: {error}") from None
        return executor

    def known(self, run: PlannedRun) -> Any:
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

    def wait(self, jobs: Sequence[tuple[PlannedRun, Any]]) -> None:
        """Wait until every job has ended, and note the exit codes."""
        left = list(jobs)
        while left:
            for run, job in [item for item in left if _has_ended(item[1])]:
                left.remove((run, job))
                run.code = _code(job)
                self.told(f"{run.arm}, seed {run.seed}: {run.state}" + (f": {run.reason}" if run.reason else ""))
            if left:
                time.sleep(_POLL_S)


def asked(written: Sequence[str], options: RunOptions) -> tuple[dict[str, Any], str]:
    """Read what is asked of submitit: what the hardware of a run implies, and `KEY=VALUE` over it.

    Returns:
        Parameters, and the name of submitit's cluster.

    Raises:
        UsageError: One has no `=`, or there is no time limit.
    """
    if wrong := [item for item in written if "=" not in item]:
        raise UsageError(f"--slurm {wrong[0]}: write KEY=VALUE, as in --slurm timeout_min=600")
    found = {key: value(text) for key, _, text in (item.partition("=") for item in written)}
    if "timeout_min" not in found:
        raise UsageError(
            "--launcher slurm needs the time limit of a job: write --slurm timeout_min=MINUTES. "
            "A run that takes longer is queued again and goes on"
        )
    implied: dict[str, Any] = {"nodes": options.nodes} if options.nodes > 1 else {}
    if options.devices.isdecimal():
        implied["tasks_per_node"] = int(options.devices)
        if options.accelerator != "cpu":
            implied["gpus_per_node"] = int(options.devices)
    cluster = str(found.pop("cluster", "slurm"))
    return implied | found, cluster


def _has_ended(job: Any) -> bool:
    """Say whether a job has ended for good: while one is queued again, SLURM may say for a moment that it failed."""
    if job.task(0).paths.result_pickle.exists():
        return True
    if not job.done():
        return False
    time.sleep(_POLL_S)
    job.watcher.clear()
    return bool(job.done())


def _code(job: Any) -> int:
    """Return the exit code of a job's first process; the others end with it."""
    try:
        return int(job.task(0).result())
    except Exception:  # submitit raises what the job raised, or its own words on a job that vanished
        return 1


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError("--launcher slurm needs submitit: pip install 'sslkit[slurm]'") from None
    return submitit
