"""Show that a killed run ends with the same bits: train once without kills and once with many, and compare."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sslkit.errors import SslkitError
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import METRICS, WEIGHTS, RunFolder

LOG = "log.txt"
_TIMINGS = ("images_per_s", "waiting", "_ms")
"""Suffixes of metrics that measure time."""
_POLL_S = 0.0005


@dataclass(frozen=True)
class Kill:
    """A SIGKILL to a run and all its processes.

    Attributes:
        step: The last step in the metrics.
        saving: Whether a checkpoint was being written.
    """

    step: int
    saving: bool


@dataclass
class ResumeComparison:
    """A run without kills, compared with a run that was killed.

    Attributes:
        steps: Optimizer steps of both runs.
        uninterrupted: Component -> hash, of the run without kills.
        killed: Component -> hash, of the killed run.
        kills: The kills, in order.
        lines: Faults in the metrics of the killed run: steps that are missing, doubled or different.
    """

    steps: int
    uninterrupted: dict[str, str]
    killed: dict[str, str]
    kills: list[Kill] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def differs(self) -> list[str]:
        """Components that differ in any bit, and faults in the metrics."""
        names = dict.fromkeys([*self.uninterrupted, *self.killed])
        return [name for name in names if self.uninterrupted.get(name) != self.killed.get(name)] + self.lines


def compare(
    command: Sequence[str], folder: Path, steps: int, kills: int, seed: int, report: Callable[[str], None]
) -> ResumeComparison:
    """Train twice and compare.

    Args:
        command: Arguments of `sslkit` that train, without `--runs` and `--arm`.
        folder: Folder for both runs.
        steps: Optimizer steps of each run.
        kills: Number of kills; every third one hits a checkpoint being written.
        seed: Seed for the times of the kills.
        report: Receives a line of progress at each kill.

    Raises:
        SslkitError: A run fails on its own; the message shows its log.
    """
    uninterrupted, killed = (
        _Attempts([*command, "--runs", str(folder), "--arm", arm], folder) for arm in ("whole", "killed")
    )
    report("training without kills")
    uninterrupted.finish()
    comparison = ResumeComparison(steps, {}, {})
    moments = random.Random(seed)
    for number in range(kills):
        after = 0.9 * (number + moments.random()) / kills * steps  # a run that has ended cannot be killed
        kill = killed.kill(int(after), number % 3 == 2, moments.random())
        if kill is None:
            report(f"the run ended before kill {number + 1} of {kills}")
            break
        comparison.kills.append(kill)
        report(f"kill {number + 1} of {kills}: at step {kill.step}{', during a save' if kill.saving else ''}")
    killed.finish()
    comparison.uninterrupted, comparison.killed = hashes(uninterrupted.run), hashes(killed.run)
    comparison.lines = faults(uninterrupted.run, killed.run)
    return comparison


class _Attempts:
    """Start one run, and start it again after each kill."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.command = [sys.executable, "-m", "sslkit", *command]
        self.folder = folder
        self.arm = command[-1]

    @property
    def run(self) -> RunFolder:
        """The run's folder; before the run creates it, a path that does not exist."""
        folders = sorted(self.folder.glob(f"*/{self.arm}-s*"))
        return RunFolder(folders[0] if folders else self.folder / "none")

    def finish(self) -> None:
        with self._log() as log:
            code = subprocess.run(self.command, stdout=log, stderr=log, check=False).returncode  # noqa: S603
        if code:
            raise SslkitError(f"the run '{self.arm}' ended with code {code}:\n{self._log_tail()}")

    def kill(self, after: int, saving: bool, share: float) -> Kill | None:
        """Start the run and kill all its processes after step `after`.

        Args:
            after: The step.
            saving: Kill during the next save; otherwise at a random moment.
            share: Part of a step's duration, of at most a second, to wait before the kill.

        Returns:
            The kill, or None if the run ended first.
        """
        with self._log() as log:
            process = subprocess.Popen(  # noqa: S603
                self.command, stdout=log, stderr=log, start_new_session=True
            )
        try:
            started = time.monotonic()
            while process.poll() is None and self._step() <= after:
                time.sleep(_POLL_S)
            if not saving:
                time.sleep(share * min(1.0, (time.monotonic() - started) / max(1, after)))
            while saving and process.poll() is None and not self._saving():
                time.sleep(_POLL_S)
            kill = Kill(self._step(), self._saving())
        finally:
            code = process.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code not in (None, 0):
            raise SslkitError(f"the run '{self.arm}' ended with code {code}:\n{self._log_tail()}")
        return kill if code is None else None

    def _step(self) -> int:
        """Return the last step in the metrics."""
        try:
            with (self.run.path / METRICS).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 100_000))
                lines = file.read().split(b"\n")[:-1]
            return int(json.loads(lines[-1])["step"])
        except (OSError, ValueError, KeyError, IndexError):
            return 0

    def _saving(self) -> bool:
        return any(self.run.checkpoints.glob(".*.part"))

    def _log(self) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        return (self.folder / f"{self.arm}-{LOG}").open("ab")

    def _log_tail(self) -> str:
        text = (self.folder / f"{self.arm}-{LOG}").read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"    {line}" for line in text.splitlines()[-10:])


def hashes(run: RunFolder) -> dict[str, str]:
    """Return component -> hash of a run's final state: the parts of its newest checkpoint, and its weights.

    Raises:
        SslkitError: The run has no checkpoint.
    """
    restored = checkpoint.restore(run.checkpoints)
    if restored is None:
        raise SslkitError(f"{run.path} has no checkpoint to compare")
    state = restored[1]
    parts: dict[str, Any] = {}
    for name, tensor in state["model"].items():
        parts.setdefault(_component(name), {})[name] = tensor
    parts |= {name: value for name, value in state.items() if name not in ("model", "recipe", "plugins", "sslkit")}
    if run.weights.exists():
        parts[WEIGHTS] = run.weights.read_bytes()
    return {name: _hash(value) for name, value in parts.items()}


def _component(name: str) -> str:
    """Return "online", "target", or "objectives." and the name of an objective."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "objectives" else first


def _hash(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: Callable[[bytes], object], value: Any) -> None:
    """Feed a nested value to a hash, in a form that is equal exactly if the bits are."""
    if isinstance(value, torch.Tensor):
        update(f"{value.dtype}{tuple(value.shape)}".encode())
        update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for name, item in value.items():
            update(repr(name).encode())
            _feed(update, item)
    elif isinstance(value, (list, tuple)):
        update(f"{type(value).__name__}{len(value)}".encode())
        for item in value:
            _feed(update, item)
    else:
        update(value if isinstance(value, bytes) else repr(value).encode())


def faults(uninterrupted: RunFolder, killed: RunFolder) -> list[str]:
    """Name the steps at which the metrics of a killed run are missing, doubled, or unlike the uninterrupted run's."""
    first, second = _metrics(uninterrupted), _metrics(killed)
    steps = [step for step, _ in second]
    faulty = {
        "missing": sorted({step for step, _ in first} - set(steps)),
        "doubled": sorted({step for step in steps if steps.count(step) > 1}),
        "different": sorted(step for step, values in dict(second).items() if dict(first).get(step) != values),
    }
    lines = [f"metrics: {what} at steps {', '.join(map(str, at[:10]))}" for what, at in faulty.items() if at]
    return lines if lines or steps == sorted(steps) else ["metrics: steps are out of order"]


def _metrics(run: RunFolder) -> list[tuple[int, dict[str, Any]]]:
    """Return (step, values) of each line, without timings."""
    lines = [json.loads(line) for line in (run.path / METRICS).read_text(encoding="utf-8").splitlines()]
    return [(line["step"], {name: line[name] for name in line if not name.endswith(_TIMINGS)}) for line in lines]
