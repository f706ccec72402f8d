"""Train the runs of an ablation: each is a process of its own, `sslkit run FOLDER`."""

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

from sslkit.ablation.trials import PlannedRun
from sslkit.folders import cores
from sslkit.training.options import RunOptions

LOG = "log.txt"
"""In a run's folder: what its process wrote, where it did not write to the terminal."""
_BUSY_EVERY_S = 1.0
Told = Callable[[str], None]


def command(folder: Path, options: Sequence[str]) -> list[str]:
    """Return the command that trains a run's folder; it is the one that a person would write."""
    return ["run", str(folder), *options]


def arguments(options: RunOptions) -> list[str]:
    """Write options as arguments of `sslkit run`, those at their defaults left out."""
    given = [(item.name, getattr(options, item.name)) for item in fields(options)
             if getattr(options, item.name) != item.default]  # fmt: skip
    named = [(f"--{name.replace('_', '-')}", value) for name, value in given]
    return [part for name, value in named for part in ((name,) if value is True else (name, str(value)))]


def script(runs: Sequence[PlannedRun], options: Sequence[str]) -> str:
    """Return a shell script that trains the runs one after another."""
    lines = ["#!/bin/sh", "# Each line is a run of its own: in any order, on any machine that sees these folders."]
    for run in runs:
        lines += [f"# {run.arm}, seed {run.seed}", shlex.join(["sslkit", *command(run.folder.path, options)])]
    return "\n".join(lines) + "\n"


class Pool:
    """Trains runs on this machine, some at a time, and passes on signals.

    Args:
        jobs: Processes at a time. With one, it writes to this terminal; with more, each writes into its folder.
        options: Of `sslkit run`, for every process.
        told: Called with one line per beginning and end.
    """

    def __init__(self, jobs: int, options: Sequence[str], told: Told) -> None:
        self.jobs, self.options, self.told = jobs, options, told
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.asked: int | None = None
        self._devices = _devices(jobs)
        self._lock = threading.Lock()

    def train(self, runs: Sequence[PlannedRun]) -> None:
        """Train what is not finished; each exit code is kept in its `PlannedRun`. One that fails stops no other."""
        waiting = [run for run in runs if run.state != "finished"]
        with self.signals(), ThreadPoolExecutor(self.jobs) as pool:
            done = [pool.submit(self.one, run, number, len(waiting)) for number, run in enumerate(waiting, 1)]
            while not all(item.done() for item in done):  # a thread that only waits would not hear a signal
                time.sleep(0.1)
        for item in done:
            item.result()

    def one(self, run: PlannedRun, number: int, total: int) -> None:
        """Train one run."""
        if self.asked is not None or not self.free(run):
            return
        who = f"{run.arm}, seed {run.seed} ({number} of {total})"
        self.told(f"{who}: {'goes on' if run.state == 'stopped' else 'begins'} in {run.folder.path}")
        with self._lock:
            device = self._devices.pop() if self._devices else None
        try:
            run.code = self.process(run.folder.path, device)
        finally:
            if device is not None:
                self._devices.append(device)
        self.told(f"{who}: {run.state}" + (f": {run.reason}" if run.state == "failed" else ""))

    def free(self, run: PlannedRun) -> bool:
        """Wait while another process trains in the folder, such as one whose parent was killed."""
        if run.folder.busy:
            self.told(f"{run.arm}, seed {run.seed}: another process trains in {run.folder.path}; waiting for it")
        while run.folder.busy and self.asked is None:
            time.sleep(_BUSY_EVERY_S)
        return self.asked is None and run.state != "finished"

    def process(self, folder: Path, device: str | None) -> int:
        """Run one process to its end and return its exit code."""
        args = [sys.executable, "-m", "sslkit", *command(folder, self.options)]
        if self.jobs == 1:
            return self.wait(args, None, None)
        with (folder / LOG).open("ab") as log:
            return self.wait(args, log, self.environment(device))

    def wait(self, args: Sequence[str], log: object, env: Mapping[str, str] | None) -> int:
        """Start a process in a group of its own, so that a signal reaches it once, through us."""
        child = subprocess.Popen(  # noqa: S603 - our own command
            args, stdin=subprocess.DEVNULL, stdout=log or subprocess.DEVNULL, stderr=log, env=env,  # type: ignore[call-overload]
            process_group=0,
        )  # fmt: skip
        self.children[child.pid] = child
        if self.asked is not None:  # between our look at it and the start of the child
            child.send_signal(self.asked)
        try:
            return int(child.wait())
        finally:
            del self.children[child.pid]

    def environment(self, device: str | None) -> dict[str, str]:
        """Give a process one GPU, or its share of the cores."""
        if device is not None:
            return {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        return {"OMP_NUM_THREADS": str(max(1, cores() // self.jobs)), **os.environ}

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Pass the first signal on to every child, which stops behind its step, and begin no other; so the second."""

        def forward(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.asked = signal.SIGTERM if number == signal.SIGHUP else number
            for child in list(self.children.values()):
                child.send_signal(self.asked)

        names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, forward) for number in names}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _devices(jobs: int) -> list[str]:
    """Return the GPUs to hand out, one to each process; none where there are fewer than processes."""
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = listed.split(",") if listed else [str(number) for number in range(torch.cuda.device_count())]
    return known if jobs > 1 and len(known) >= jobs else []


def default_jobs() -> int:
    """Return one process per GPU, or one."""
    import torch

    return max(1, torch.cuda.device_count())
