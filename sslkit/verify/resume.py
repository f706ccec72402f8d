"""Show that a run that is killed ends with the same bits: train without a kill and with many, and compare."""

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
_TIMED = ("images_per_s", "waiting", "_ms")
"""How metrics end that say how long something took."""
_POLL_S = 0.0005


@dataclass(frozen=True)
class Kill:
    """One SIGKILL to a run and all its processes.

    Attributes:
        step: The last step that was in the metrics.
        saving: Whether a checkpoint was being written.
    """

    step: int
    saving: bool


@dataclass
class ResumeComparison:
    """A run without a kill, beside one with.

    Attributes:
        steps: Of both.
        whole: Component -> hash, of the run without.
        killed: The same of the other.
        kills: In order.
        lines: What is wrong with the metrics of the killed run: steps that are missing, doubled or differ.
    """

    steps: int
    whole: dict[str, str]
    killed: dict[str, str]
    kills: list[Kill] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def differs(self) -> list[str]:
        """Components whose bits are not the same, and faults of the metrics."""
        names = dict.fromkeys([*self.whole, *self.killed])
        return [name for name in names if self.whole.get(name) != self.killed.get(name)] + self.lines


def compare(
    command: Sequence[str], folder: Path, steps: int, kills: int, seed: int, say: Callable[[str], None]
) -> ResumeComparison:
    """Train twice and compare.

    Args:
        command: Arguments of `sslkit` that train, but for the folder of all runs and the arm.
        folder: For both runs.
        steps: That they take.
        kills: How many; every third one meets a checkpoint being written.
        seed: Of the moments.
        say: Told of each kill.

    Raises:
        SslkitError: A run fails by itself; its log is shown.
    """
    whole, killed = (_Attempts([*command, "--runs", str(folder), "--arm", arm], folder) for arm in ("whole", "killed"))
    say("training without a kill")
    whole.to_the_end()
    done = ResumeComparison(steps, {}, {})
    moments = random.Random(seed)
    for number in range(kills):
        after = 0.9 * (number + moments.random()) / kills * steps  # a run that has ended cannot be killed
        kill = killed.kill(int(after), number % 3 == 2, moments.random())
        if kill is None:
            say(f"the run ended before kill {number + 1} of {kills}")
            break
        done.kills.append(kill)
        say(f"kill {number + 1} of {kills}: at step {kill.step}{', inside a save' if kill.saving else ''}")
    killed.to_the_end()
    done.whole, done.killed = hashes(whole.run), hashes(killed.run)
    done.lines = faults(whole.run, killed.run)
    return done


class _Attempts:
    """Starts one run again and again."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.command = [sys.executable, "-m", "sslkit", *command]
        self.folder = folder
        self.arm = command[-1]

    @property
    def run(self) -> RunFolder:
        """The run's folder, once there is one."""
        found = sorted(self.folder.glob(f"*/{self.arm}-s*"))
        return RunFolder(found[0] if found else self.folder / "none")

    def to_the_end(self) -> None:
        with self._log() as log:
            code = subprocess.run(self.command, stdout=log, stderr=log, check=False).returncode  # noqa: S603
        if code:
            raise SslkitError(f"the run '{self.arm}' ended with code {code}:\n{self._told()}")

    def kill(self, after: int, saving: bool, share: float) -> Kill | None:
        """Start, and kill everything behind step `after`: at a random moment, or inside the next save.

        Returns:
            None where the run came to its end before.
        """
        with self._log() as log:
            process = subprocess.Popen(  # noqa: S603
                self.command, stdout=log, stderr=log, start_new_session=True
            )
        try:
            began = time.monotonic()
            while process.poll() is None and self._step() <= after:
                time.sleep(_POLL_S)
            if not saving:
                time.sleep(share * min(1.0, (time.monotonic() - began) / max(1, after)))
            while saving and process.poll() is None and not self._saving():
                time.sleep(_POLL_S)
            kill = Kill(self._step(), self._saving())
        finally:
            ended = process.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if ended not in (None, 0):
            raise SslkitError(f"the run '{self.arm}' ended with code {ended}:\n{self._told()}")
        return kill if ended is None else None

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

    def _told(self) -> str:
        text = (self.folder / f"{self.arm}-{LOG}").read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"    {line}" for line in text.splitlines()[-10:])


def hashes(run: RunFolder) -> dict[str, str]:
    """Return component -> hash of all that a run ends with: its newest checkpoint, part by part, and its weights.

    Raises:
        SslkitError: There is no checkpoint.
    """
    found = checkpoint.restore(run.checkpoints)
    if found is None:
        raise SslkitError(f"{run.path} has no checkpoint to compare")
    state = found[1]
    parts: dict[str, Any] = {}
    for name, tensor in state["model"].items():
        parts.setdefault(_component(name), {})[name] = tensor
    parts |= {name: value for name, value in state.items() if name not in ("model", "recipe", "plugins", "sslkit")}
    if run.weights.exists():
        parts[WEIGHTS] = run.weights.read_bytes()
    return {name: _hash(value) for name, value in parts.items()}


def _component(name: str) -> str:
    """Return "online", "target", or the name of an objective with its "objectives." before it."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "objectives" else first


def _hash(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: Callable[[bytes], object], value: Any) -> None:
    """Pass on a nested value in a form in which equal bits, and only these, are equal."""
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


def faults(whole: RunFolder, killed: RunFolder) -> list[str]:
    """Say in which steps the metrics of a killed run are missing, doubled or other than those of the whole one."""
    first, second = _metrics(whole), _metrics(killed)
    steps = [step for step, _ in second]
    wrong = {
        "missing": sorted({step for step, _ in first} - set(steps)),
        "doubled": sorted({step for step in steps if steps.count(step) > 1}),
        "different": sorted(step for step, values in dict(second).items() if dict(first).get(step) != values),
    }
    told = [f"metrics: {what} at steps {', '.join(map(str, found[:10]))}" for what, found in wrong.items() if found]
    return told if told or steps == sorted(steps) else ["metrics: steps are not in order"]


def _metrics(run: RunFolder) -> list[tuple[int, dict[str, Any]]]:
    """Return (step, values) line by line, without what says how long something took."""
    lines = [json.loads(line) for line in (run.path / METRICS).read_text(encoding="utf-8").splitlines()]
    return [(line["step"], {name: line[name] for name in line if not name.endswith(_TIMED)}) for line in lines]
