"""What an ablation came to: arms, each with one trial per seed. Tables, plots and pages are made of this alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["finished", "failed", "stopped", "running", "waiting"]


@dataclass(frozen=True)
class Trial:
    """One arm at one seed.

    Attributes:
        folder: Of the run, as a path that can be opened from where the ablation was started.
        state: Only "finished" has figures to compare; anything else is a hole.
        reason: Why it failed, in one line.
        metrics: "knn top1" -> figure of the trained backbone, in [0, 1] where it is a rate.
        references: "raw pixels" and "random weights" -> the same metrics of what was not trained.
        images_per_s: Median over the steps.
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


@dataclass(frozen=True)
class Results:
    """All arms; the first is the full recipe.

    Attributes:
        recipe: Its name.
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
