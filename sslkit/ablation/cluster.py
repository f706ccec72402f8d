"""Train runs on a SLURM cluster through submitit: one job array, whose jobs are requeued when they are preempted.

SLURM ends a job in two ways. Before the time limit it sends the signal that submitit requested; submitit then calls
`TrainJob.checkpoint`, which stops the run after its step, and requeues the job. On preemption or cancellation it sends
SIGTERM, and SIGKILL some time later; `TrainJob` stops the run then, too, and leaves the job to SLURM.
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

from sslkit.ablation.launch import LOG_FILE, Notify, run_command
from sslkit.ablation.plan import PlannedRun
from sslkit.data.loader import STOP_SIGNALS
from sslkit.errors import PreemptedError, SslkitError, UsageError
from sslkit.planning.recipe_file import parse_value
from sslkit.training.options import RunOptions

JOB_FILE = "job.json"
"""In a run's folder: the job that trains the run."""
_LIVE_STATES = {
    "PENDING",
    "RUNNING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "CONFIGURING",
    "COMPLETING",
    "PREEMPTED",
    "SUSPENDED",
}
_POLL_S = 5.0
_STOP = signal.SIGINT
"""Makes a run stop; SLURM does not send this signal by itself."""
_MAX_GRACE_S = 3600.0
_DEFAULTS = {"slurm_srun_args": ["--kill-on-bad-exit=1"]}
_MAX_TIMEOUTS = 1000
"""Time limits that a run may use up; submitit's default of 3 would end runs of days on queues of hours."""


class TrainJob:
    """A job: train a run's folder, and stop after a step with a checkpoint when SLURM ends the job.

    Args:
        options: Arguments of `sslkit run`.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self.options = list(options)
        self.child: subprocess.Popen[bytes] | None = None
        self.ending = False

    def __call__(self, folder: str) -> int:
        """Train, and return the exit code: 0, or 75 if the run was stopped.

        Raises:
            SslkitError: The run failed. The job fails with it, so that `srun` ends the run's other processes.
        """
        previous = signal.signal(signal.SIGTERM, self._end)
        try:
            code = self._train(Path(folder))
        finally:
            signal.signal(signal.SIGTERM, previous)
        if code not in (0, PreemptedError.exit_code):
            raise SslkitError(f"exit code {code}: see {Path(folder) / LOG_FILE}")
        return code

    def _train(self, folder: Path) -> int:
        with (folder / LOG_FILE).open("ab") as log:
            args = [sys.executable, "-m", "sslkit", *run_command(folder, self.options)]
            self.child = subprocess.Popen(  # noqa: S603
                args, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=_ignore_other_signals,
            )  # fmt: skip
            code = self.child.wait()
        if self.ending:
            time.sleep(_MAX_GRACE_S)  # SLURM does not requeue a job that ends by itself
        return code

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.ending = True
        self._stop()

    def _stop(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(_STOP)

    def checkpoint(self, folder: str) -> Any:
        """Stop the run after its step, and return what submitit requeues."""
        import submitit

        if self.child is not None:
            self._stop()
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)  # submitit calls this inside `Popen.wait`
        return submitit.helpers.DelayedSubmission(TrainJob(self.options), folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "child": None}


def _ignore_other_signals() -> None:
    """Ignore the signals that SLURM may send to every process of a job: a second one would kill the run at once."""
    for number in STOP_SIGNALS:
        if number != _STOP:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(_STOP, signal.SIG_DFL)


class Slurm:
    """Submits runs as one job array and waits for them.

    Args:
        logs: Folder for submitit's files.
        options: Arguments of `sslkit run`, for every job.
        parameters: Parameters of submitit's executor, such as `timeout_min` and `slurm_partition`.
        notify: Called with one line per event.
        cluster: submitit's name of the cluster; "local" runs the jobs on this machine, as a rehearsal.
    """

    def __init__(
        self, logs: Path, options: Sequence[str], parameters: Mapping[str, Any], notify: Notify, cluster: str = "slurm"
    ) -> None:
        self.logs, self.options, self.parameters = logs, options, parameters
        self.notify, self.cluster = notify, cluster

    def train(self, runs: Sequence[PlannedRun]) -> None:
        """Submit the runs that are neither finished nor queued, and wait for all of them.

        Raises:
            UsageError: submitit is not installed, or refuses the parameters.
            PreemptedError: Waiting was interrupted; the jobs continue.
        """
        unfinished = [run for run in runs if run.state != "finished"]
        jobs = {id(run): job for run in unfinished if (job := self.find_job(run)) is not None}
        new = [run for run in unfinished if id(run) not in jobs]
        if new:
            jobs.update(zip(map(id, new), self.submit(new), strict=True))
        try:
            self.wait([(run, jobs[id(run)]) for run in unfinished])
        except KeyboardInterrupt:
            raise PreemptedError("the jobs continue; the same command waits for them and writes the table") from None

    def submit(self, runs: Sequence[PlannedRun]) -> list[Any]:
        """Submit runs as one array and return their jobs."""
        executor = self.executor()
        jobs: list[Any] = executor.map_array(TrainJob(self.options), [str(run.folder.path.resolve()) for run in runs])
        for run, job in zip(runs, jobs, strict=True):
            run.folder.write(JOB_FILE, {"job": job.job_id, "cluster": self.cluster, "logs": str(self.logs.resolve())})
            self.notify(f"{run.arm}, seed {run.seed}: job {job.job_id}")
        return jobs

    def executor(self) -> Any:
        """Return submitit's executor with the parameters set."""
        submitit = _submitit()
        try:
            parameters = {"slurm_max_num_timeout": _MAX_TIMEOUTS, **_DEFAULTS, **self.parameters}
            at_init = {name: parameters.pop(name) for name in list(parameters) if name.endswith("_max_num_timeout")}
            executor = submitit.AutoExecutor(folder=self.logs, cluster=self.cluster, **at_init)
            executor.update_parameters(name="sslkit", **parameters)
        except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
            raise UsageError(f"submitit: {error}") from None
        return executor

    def find_job(self, run: PlannedRun) -> Any:
        """Return the job that an earlier call submitted for a run, if it is still queued or running."""
        entry = run.folder.read(JOB_FILE, {})
        if not entry or entry["cluster"] != self.cluster:
            return None
        submitit = _submitit()
        kind = submitit.SlurmJob if self.cluster == "slurm" else submitit.LocalJob
        job = kind(entry["logs"], entry["job"])
        if str(job.state).partition(" ")[0] not in _LIVE_STATES:
            return None
        self.notify(f"{run.arm}, seed {run.seed}: job {entry['job']} is in the queue")
        return job

    def wait(self, jobs: Sequence[tuple[PlannedRun, Any]]) -> None:
        """Wait until every job has ended, and store the exit codes in the runs."""
        pending = list(jobs)
        while pending:
            for run, job in [item for item in pending if _has_ended(item[1])]:
                pending.remove((run, job))
                run.code = _code(job)
                self.notify(f"{run.arm}, seed {run.seed}: {run.state}" + (f": {run.reason}" if run.reason else ""))
            if pending:
                time.sleep(_POLL_S)


def submit_parameters(settings: Sequence[str], options: RunOptions) -> tuple[dict[str, Any], str]:
    """Return submitit's parameters and the name of its cluster.

    Args:
        settings: Values of `--slurm`, each "KEY=VALUE"; they override what the options imply.
        options: Options of the run, which imply the number of nodes, tasks and GPUs.

    Raises:
        UsageError: A setting has no `=`, or the time limit is missing.
    """
    if invalid := [item for item in settings if "=" not in item]:
        raise UsageError(f"--slurm {invalid[0]}: write KEY=VALUE, as in --slurm timeout_min=600")
    parameters = {key: parse_value(text) for key, _, text in (item.partition("=") for item in settings)}
    if "timeout_min" not in parameters:
        raise UsageError(
            "--launcher slurm needs the time limit of a job: write --slurm timeout_min=MINUTES. "
            "A run that takes longer is requeued and resumes"
        )
    implied: dict[str, Any] = {"nodes": options.nodes} if options.nodes > 1 else {}
    if options.devices.isdecimal():
        implied["tasks_per_node"] = int(options.devices)
        if options.accelerator != "cpu":
            implied["gpus_per_node"] = int(options.devices)
    cluster = str(parameters.pop("cluster", "slurm"))
    return implied | parameters, cluster


def _has_ended(job: Any) -> bool:
    """Say whether a job has ended for good: while a job is requeued, SLURM may report for a moment that it failed."""
    if job.task(0).paths.result_pickle.exists():
        return True
    if not job.done():
        return False
    time.sleep(_POLL_S)
    job.watcher.clear()
    return bool(job.done())


def _code(job: Any) -> int:
    """Return the exit code of a job's first process; its other processes end with it."""
    try:
        return int(job.task(0).result())
    except Exception:  # submitit raises what the job raised, or its own error if the job vanished
        return 1


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError("--launcher slurm needs submitit: pip install 'sslkit[slurm]'") from None
    return submitit
