"""What an ablation came to: arms, each with one trial per seed. Tables, plots and pages are made of this alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any, Literal

State = Literal["finished", "failed", "stopped", "running", "waiting"]
FORMAT = 1
"""Of the JSON that `dump` gives; goes up when an older reader could not make sense of it."""


@dataclass(frozen=True)
class Trial:
    """One arm at one seed.

    Attributes:
        folder: Of the run, as a path that can be opened from where the ablation was started.
        state: Only "finished" has figures to compare; anything else is a hole.
        reason: Why it failed, in one line.
        metrics: "knn top1" -> figure of the trained backbone, in [0, 1] where it is a rate.
        references: "raw pixels" and "random weights" -> the same metrics of what was not trained.
        images_per_s: Images trained on, by the seconds that their steps took: waiting for data included, probes not.
        hours: Wall-clock time of training, over all sessions.
        peak_memory: Bytes, of the process and its device.
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
    """One variant of the recipe.

    Attributes:
        name: "full", "drop-instance-instance", ...
        digest: Hash of its resolved recipe.
        objectives: Those it has, by name.
        changes: Dotted key -> (the full recipe's value, this arm's value); None for a missing key.
        gflops: Forward and backward passes, per image.
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
        """How many of its trials have figures."""
        return sum(trial.state == "finished" for trial in self.trials)


@dataclass(frozen=True)
class Results:
    """All arms; the first is the full recipe.

    Attributes:
        recipe: Its name.
        summary: Its own, in a line.
        command: That made this.
        objectives: Every objective of any arm, in the recipe's order.
        varied: Dotted keys that some arm was asked to vary.
        metrics: Every metric, in the order of the recipe's probes.
        versions: Package or plugin -> version, where all trials agree; "a / b" where they do not.
        notes: What is worth saying: arms that resolve to the same recipe, versions that differ.
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

    @property
    def full(self) -> ArmResult:
        """The arm that the others are compared with."""
        return self.arms[0]


# ------------------------------------------------------------------------------------------------------ as JSON


def dump(results: Results) -> dict[str, Any]:
    """Return what JSON can hold: lists, dicts, text and finite numbers.

    A metric that is not finite becomes null, and NaN when it is loaded. In `changes`, dates and numbers that are not
    finite become the text that TOML has for them.
    """
    return {"format": FORMAT, **_plain(dataclasses.asdict(results))}


def load(values: Mapping[str, Any]) -> Results:
    """Return what `dump` was given, with tuples for its sequences.

    Args:
        values: As `dump` returned them; further top-level keys are left alone.

    Raises:
        ValueError: They are no results, or were written in another format.
    """
    if values.get("format") != FORMAT:
        raise ValueError(f"these are no results of format {FORMAT}: their 'format' is {values.get('format')!r}")
    names = {item.name for item in dataclasses.fields(Results)}
    kept = {key: _tuple(value) for key, value in values.items() if key in names}
    return Results(**kept | {"arms": tuple(_arm(arm) for arm in values["arms"])})


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
    """Return a value for JSON; `key` is that of the nearest table, as settings keep their infinities as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item, key if key == "changes" else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if key == "changes" else None
    return str(value) if isinstance(value, date | time) else value
