"""The results of an ablation: arms, each with one trial per seed. Tables, figures and pages need nothing else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any, Literal

State = Literal["finished", "failed", "stopped", "running", "waiting"]
FORMAT = 1
"""Version of the JSON that `dump` returns; raised when older readers could no longer read it."""


@dataclass(frozen=True)
class Trial:
    """One arm at one seed.

    Attributes:
        folder: Folder of the run, as a path relative to where the ablation was started.
        state: Only a "finished" trial has metrics to compare; any other one is a hole.
        reason: Why the trial failed, in one line.
        metrics: "knn top1" -> value for the trained backbone, in [0, 1] if it is a rate.
        references: "raw pixels", "random weights" and "random weights, calibrated" -> the same metrics for features
            that were not trained.
        images_per_s: Images per second of training, with waiting for data and without probes.
        hours: Wall-clock time of training, over all sessions.
        peak_memory: Peak memory of the process and its device, in bytes.
    """

    seed: int
    folder: str
    state: State = "waiting"
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    images_per_s: float | None = None
    hours: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True)
class ArmResult:
    """The trials of one arm.

    Attributes:
        name: "full", "drop-instance-instance", ...
        digest: Hash of the arm's resolved recipe.
        objectives: Names of the arm's objectives.
        changes: Dotted key -> (the full recipe's value, this arm's value); None for a missing key.
        gflops: Operations per image of the forward and backward passes, in 1e9.
        trials: One per seed, in the order of the seeds.
    """

    name: str
    digest: str
    objectives: Sequence[str]
    changes: Mapping[str, tuple[Any, Any]]
    gflops: float
    trials: Sequence[Trial]

    @property
    def finished(self) -> int:
        """Number of finished trials."""
        return sum(trial.state == "finished" for trial in self.trials)


@dataclass(frozen=True)
class Results:
    """The results of all arms; the first arm is the full recipe.

    Attributes:
        recipe: Name of the recipe.
        summary: The recipe's one-line summary.
        command: Command line that started the ablation.
        objectives: Every objective of any arm, in the recipe's order.
        varied: Dotted keys that `--vary` set.
        metrics: Every metric, in the order of the recipe's probes.
        versions: Package or plugin -> version; "a / b" if the trials differ.
        notes: Remarks, such as arms that resolve to the same recipe and versions that differ.
    """

    recipe: str
    summary: str
    command: str
    seeds: Sequence[int]
    arms: Sequence[ArmResult]
    objectives: Sequence[str]
    varied: Sequence[str]
    metrics: Sequence[str]
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        arms = ", ".join(f"{arm.name} ({arm.finished} of {len(arm.trials)} finished)" for arm in self.arms)
        return f"Results({self.recipe}: {arms})"

    @property
    def full(self) -> ArmResult:
        """The arm that all others are compared with."""
        return self.arms[0]


# ------------------------------------------------------------------------------------------------------ as JSON


def dump(results: Results) -> dict[str, Any]:
    """Return the results as JSON values: lists, dicts, strings and finite numbers.

    A metric that is not finite becomes null, and NaN when it is loaded. In `changes`, dates and numbers that are not
    finite become strings, as TOML writes them.
    """
    return {"format": FORMAT, **_plain(dataclasses.asdict(results))}


def load(values: Mapping[str, Any]) -> Results:
    """Restore results from the values that `dump` returned, with tuples for sequences.

    Args:
        values: JSON values from `dump`; other top-level keys are ignored.

    Raises:
        ValueError: The values are not results, or have another format.
    """
    if values.get("format") != FORMAT:
        raise ValueError(f"these are not results of format {FORMAT}: their 'format' is {values.get('format')!r}")
    names = {item.name for item in dataclasses.fields(Results)}
    fields = {key: _tuple(value) for key, value in values.items() if key in names}
    return Results(**fields | {"arms": tuple(_arm(arm) for arm in values["arms"])})


def _arm(values: Mapping[str, Any]) -> ArmResult:
    changes = {key: (old, new) for key, (old, new) in values["changes"].items()}
    trials = tuple(_trial(trial) for trial in values["trials"])
    return ArmResult(**{**values, "objectives": tuple(values["objectives"]), "changes": changes, "trials": trials})


def _trial(values: Mapping[str, Any]) -> Trial:
    references = {name: _metrics(metrics) for name, metrics in values["references"].items()}
    return Trial(**{**values, "metrics": _metrics(values["metrics"]), "references": references})


def _metrics(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any, key: str = "") -> Any:
    """Convert a value for JSON; infinities become text where the `key` of the nearest table is "changes"."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item, key if key == "changes" else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if key == "changes" else None
    return str(value) if isinstance(value, date | time) else value
