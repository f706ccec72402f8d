"""Show that a killed run ends with the same bits: train once without kills and once with many, and compare."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sslkit.errors import SslkitError, UsageError
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import METRICS, WEIGHTS, RunFolder
from sslkit.verify.attempts import Attempts, Kill

_TIMINGS = ("images_per_s", "waiting", "_ms")
"""Suffixes of metrics that measure time."""


@dataclass
class ResumeComparison:
    """A run without kills, compared with a run that was killed.

    Attributes:
        steps: Optimizer steps of both runs.
        uninterrupted: Component -> hash, of the run without kills.
        killed: Component -> hash, of the killed run.
        kills: The kills, in order.
        asked: The number of kills, each with a resume from a checkpoint, that were asked for.
        lines: Faults in the metrics of the killed run: steps that are missing, doubled or different.
    """

    steps: int
    uninterrupted: dict[str, str]
    killed: dict[str, str]
    kills: list[Kill] = field(default_factory=list)
    asked: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def differs(self) -> list[str]:
        """Components that differ in any bit, and faults in the metrics."""
        names = dict.fromkeys([*self.uninterrupted, *self.killed])
        return [name for name in names if self.uninterrupted.get(name) != self.killed.get(name)] + self.lines

    @property
    def resumes(self) -> list[int]:
        """Steps of the checkpoints that the killed run resumed from; a kill before the first one tests no resume."""
        return [kill.checkpoint for kill in self.kills if kill.checkpoint]

    @property
    def is_enough(self) -> bool:
        """Whether as many kills as asked for led to a resume."""
        return len(self.resumes) >= self.asked


def fitting(steps: int, kills: int | None, save_every: int | None) -> tuple[int, int]:
    """Return the number of kills and the steps between checkpoints for runs of some steps.

    Each kill comes after the first checkpoint, after a step of its own, and before the last step.

    Args:
        steps: Optimizer steps of a run.
        kills: The number asked for; None takes 10, or as many as fit.
        save_every: Steps between checkpoints; None takes 5, or fewer in a short run.

    Raises:
        UsageError: They do not fit into the steps.
    """
    every = save_every or max(1, min(5, steps // 4))
    most = steps - every - 1
    if most < (kills or 1):
        room = f"the first checkpoint is after step {every} of {steps}, which leaves room for {_kills(max(0, most))}"
        raise UsageError(f"{room}: write more --steps (and a recipe as long), a smaller --save-every or fewer --kills")
    return kills or min(10, most), every


def _kills(count: int) -> str:
    return f"{count or 'no'} kill{'s' * (count > 1)}"


def compare(
    command: Sequence[str], folder: Path, steps: int, save_every: int, kills: int, seed: int,
    report: Callable[[str], None],
) -> ResumeComparison:  # fmt: skip
    """Train twice and compare.

    Args:
        command: Arguments of `sslkit` that train, without `--runs` and `--arm`.
        folder: Folder for both runs.
        steps: Optimizer steps of each run.
        save_every: Steps between checkpoints; every kill comes after the first one, so that it leads to a resume.
        kills: Number of kills; every third one hits a checkpoint being written.
        seed: Seed for the times of the kills.
        report: Receives a line of progress at each kill.

    Raises:
        SslkitError: A run fails on its own; the message shows its log.
    """
    uninterrupted, killed = (
        Attempts([*command, "--runs", str(folder), "--arm", arm], folder) for arm in ("whole", "killed")
    )
    report("training without kills")
    uninterrupted.finish()
    comparison = ResumeComparison(steps, {}, {}, asked=kills)
    moments = random.Random(seed)
    last = max(save_every, min(steps - 2, round(0.9 * steps)))  # a run that has ended cannot be killed
    for number in range(kills):
        after = save_every + (number + moments.random()) / kills * (last - save_every)
        kill = killed.kill(int(after), number % 3 == 2, moments.random())
        if kill is None:
            report(f"the run ended before kill {number + 1} of {kills}")
            break
        comparison.kills.append(kill)
        report(f"kill {number + 1} of {kills}: {_describe(kill)}")
    killed.finish()
    comparison.uninterrupted, comparison.killed = hashes(uninterrupted.run), hashes(killed.run)
    comparison.lines = faults(uninterrupted.run, killed.run)
    return comparison


def _describe(kill: Kill) -> str:
    saving = ", during a save" if kill.saving else ""
    then = f"resumes from step {kill.checkpoint}" if kill.checkpoint else "begins again"
    return f"at step {kill.step}{saving}; {then}"


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
