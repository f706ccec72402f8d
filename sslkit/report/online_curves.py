"""Read the scores of online probes: per arm, the mean over seeds with its interval, against images seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sslkit.ablation.results import ArmResult, Results
from sslkit.ablation.statistics import interval
from sslkit.report.curves import Range, ThinnedCurve, TrialCurves, read_log
from sslkit.storage.run_folder import ONLINE_PROBES, PROBE_TERM

MAX_POINTS = 100
"""Most measurements in one curve; of more, every n-th is drawn."""
Points = Mapping[float, float]
"""Images seen -> score."""


@dataclass(frozen=True)
class OnlineCurves:
    """The scores of online probes of all arms.

    Attributes:
        arms: One for each arm with scores. `steps` of its curves are images seen, and a value is the lower end of the
            interval, the mean and the upper end; all three are the mean where a single seed has a score.
        baselines: Curve -> features -> score of features that were not trained, the mean over the seeds of the first
            arm that has any.
    """

    arms: Sequence[TrialCurves]
    baselines: Mapping[str, Mapping[str, float]]

    @property
    def names(self) -> list[str]:
        """The name of every curve, in the order of first appearance."""
        return list(dict.fromkeys(name for arm in self.arms for name in arm.curves))


def is_online(name: str) -> bool:
    """Return whether a curve of a log has scores of an online probe."""
    return name.startswith(PROBE_TERM) and name.count(".") > 1


def read_online_curves(results: Results) -> OnlineCurves:
    """Read the scores from the folders of all trials; leave out trials without online probes."""
    arms: list[TrialCurves] = []
    baselines: dict[str, dict[str, float]] = {}
    for number, arm in enumerate(results.arms):
        curves = _arm_curves(arm)
        if curves:
            arms.append(TrialCurves(number, 0, curves))
            baselines = baselines or _baselines(arm)
    return OnlineCurves(arms, baselines)


def _arm_curves(arm: ArmResult) -> dict[str, ThinnedCurve]:
    seeds = [curves for trial in arm.trials if (curves := dict(_trial_curves(Path(trial.folder))))]
    names = dict.fromkeys(name for curves in seeds for name in curves)
    merged = {name: mean_curve([curves[name] for curves in seeds if name in curves]) for name in names}
    return {name: curve for name, curve in merged.items() if curve.steps}


def _trial_curves(folder: Path) -> Iterator[tuple[str, Points]]:
    images = _about(folder).get("images_per_step")
    if not isinstance(images, int):
        return
    for name, (steps, values) in read_log(folder).items():
        points = {step * images: value for step, value in zip(steps, values, strict=True) if value is not None}
        if is_online(name) and points:
            yield name, points


def _about(folder: Path) -> dict[str, Any]:
    """Return what the run's folder says about its online probes; nothing if that is missing or unreadable."""
    try:
        about = json.loads((folder / ONLINE_PROBES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def mean_curve(seeds: Sequence[Points]) -> ThinnedCurve:
    """Return the mean over seeds with its 95 % interval, at the images seen that every one of them was measured at."""
    common = sorted(set(seeds[0]).intersection(*seeds[1:]))
    every = -(-len(common) // MAX_POINTS)
    places = common[::-1][:: max(1, every)][::-1]  # the last one is always among them
    return ThinnedCurve(places, [_range([points[place] for points in seeds]) for place in places])


def _range(values: Sequence[float]) -> Range:
    mean = interval(values)
    low, high = (mean.value if end is None else end for end in (mean.low, mean.high))
    return low, mean.value, high


def _baselines(arm: ArmResult) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, list[float]]] = {}
    for trial in arm.trials:
        for probe, about in _about(Path(trial.folder)).get("probes", {}).items():
            levels = values.setdefault(f"{PROBE_TERM}{probe}.{about['metric']}", {})
            for features, score in about["baselines"].items():
                levels.setdefault(features, []).append(score)
    return {name: {key: fmean(scores) for key, scores in levels.items()} for name, levels in values.items()}
