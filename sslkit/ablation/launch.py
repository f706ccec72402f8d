"""Train the runs of an ablation on this machine: each run is a process of its own, `sslkit run FOLDER`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType

from sslkit.ablation.plan import PlannedRun
from sslkit.folders import cores
from sslkit.training.options import RunOptions, default_workers

LOG_FILE = "log.txt"
"""In a run's folder: the output of the run's process, where it does not go to the terminal."""
_BUSY_POLL_S = 1.0
Notify = Callable[[str], None]
"""Receives one line of progress."""


def run_command(folder: Path, options: Sequence[str]) -> list[str]:
    """Return the arguments of `sslkit` that train the run in a folder."""
    return ["run", str(folder), *options]


def arguments(options: RunOptions) -> list[str]:
    """Write options as arguments of `sslkit run`, without those at their defaults."""
    changed = [(item.name, getattr(options, item.name)) for item in fields(options)
               if getattr(options, item.name) != item.default]  # fmt: skip
    flags = [(f"--{name.replace('_', '-')}", value) for name, value in changed]
    return [part for flag, value in flags for part in ((flag,) if value is True else (flag, str(value)))]


def script(runs: Sequence[PlannedRun], options: Sequence[str]) -> str:
    """Return a shell script that trains the runs one after another."""
    lines = ["#!/bin/sh", "# Each line is a separate run: in any order, on any machine that sees these folders."]
    for run in runs:
        lines += [f"# {run.arm}, seed {run.seed}", shlex.join(["sslkit", *run_command(run.folder.path, options)])]
    return "\n".join(lines) + "\n"


class Pool:
    """Trains runs on this machine, several at a time, and forwards signals to them.

    Args:
        jobs: Processes at a time. A single one writes to this terminal; several write into the folders of their runs.
        options: Arguments of `sslkit run`, for every process.
        notify: Called with one line when a run starts and when it ends.
    """

    def __init__(self, jobs: int, options: Sequence[str], notify: Notify) -> None:
        self.jobs, self.options, self.notify = jobs, options, notify
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.stop_signal: int | None = None
        self._devices = _devices(jobs)
        self._lock = threading.Lock()

    def train(self, runs: Sequence[PlannedRun]) -> None:
        """Train the unfinished runs, and store their exit codes in them. A failed run does not stop the others."""
        unfinished = [run for run in runs if run.state != "finished"]
        with self.signals_forwarded(), ThreadPoolExecutor(self.jobs) as pool:
            futures = [
                pool.submit(self.train_one, run, number, len(unfinished)) for number, run in enumerate(unfinished, 1)
            ]
            while not all(item.done() for item in futures):  # a thread blocked in `result` would not handle signals
                time.sleep(0.1)
        for item in futures:
            item.result()

    def train_one(self, run: PlannedRun, number: int, total: int) -> None:
        """Train one run."""
        if self.stop_signal is not None or not self.wait_for_folder(run):
            return
        name = f"{run.arm}, seed {run.seed} ({number} of {total})"
        self.notify(f"{name}: {'resumes' if run.state == 'stopped' else 'starts'} in {run.folder.path}")
        with self._lock:
            device = self._devices.pop() if self._devices else None
        try:
            run.code = self.run_process(run.folder.path, device)
        finally:
            if device is not None:
                self._devices.append(device)
        self.notify(f"{name}: {run.state}" + (f": {run.reason}" if run.state == "failed" else ""))

    def wait_for_folder(self, run: PlannedRun) -> bool:
        """Wait while another process trains in the folder, such as an orphan; say whether there is still work to do."""
        if run.folder.busy:
            self.notify(f"{run.arm}, seed {run.seed}: another process trains in {run.folder.path}; waiting for it")
        while run.folder.busy and self.stop_signal is None:
            time.sleep(_BUSY_POLL_S)
        return self.stop_signal is None and run.state != "finished"

    def run_process(self, folder: Path, device: str | None) -> int:
        """Train a run's folder in a process and return its exit code."""
        args = [sys.executable, "-m", "sslkit", *run_command(folder, self.options)]
        if self.jobs == 1:
            return self.start_and_wait(args, None, None)
        if device is None and "--workers" not in args:
            args += ["--workers", str(default_workers(self.share, self.share))]
        with (folder / LOG_FILE).open("ab") as log:
            return self.start_and_wait(args, log, self.environment(device))

    def start_and_wait(self, args: Sequence[str], log: object, env: Mapping[str, str] | None) -> int:
        """Start a process in its own group, so that it gets a signal once, from here; return its exit code."""
        child = subprocess.Popen(  # noqa: S603 - our own command
            args, stdin=subprocess.DEVNULL, stdout=log or subprocess.DEVNULL, stderr=log, env=env,  # type: ignore[call-overload]
            process_group=0,
        )  # fmt: skip
        self.children[child.pid] = child
        if self.stop_signal is not None:  # it arrived between the last check and the start of the child
            child.send_signal(self.stop_signal)
        try:
            return int(child.wait())
        finally:
            del self.children[child.pid]

    @property
    def share(self) -> int:
        """A process's share of the cores."""
        return max(1, cores() // self.jobs)

    def environment(self, device: str | None) -> dict[str, str]:
        """Return environment variables that give a process one GPU, or its share of the cores."""
        if device is not None:
            return {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        return {"OMP_NUM_THREADS": str(self.share), **os.environ}

    @contextmanager
    def signals_forwarded(self) -> Iterator[None]:
        """Forward signals to every child, which stops after its step; start no new runs after the first signal."""

        def forward(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.stop_signal = signal.SIGTERM if number == signal.SIGHUP else number
            for child in list(self.children.values()):
                child.send_signal(self.stop_signal)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, forward) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _devices(jobs: int) -> list[str]:
    """Return the GPUs to assign, one per process; none if there are fewer GPUs than processes."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return known if jobs > 1 and len(known) >= jobs else []


def default_jobs() -> int:
    """Return the number of GPUs, or 1 if there is none."""
    import torch

    return max(1, torch.cuda.device_count())
