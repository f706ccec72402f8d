"""The verdict on a run: whether training improved its features, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sslkit.probes.evaluate import CALIBRATED, RANDOM_WEIGHTS, RAW_PIXELS, ProbeScores
from sslkit.probes.noise import difference_error, sample_count

METRICS = ("top1", "map")
"""The main metric of a probe: the first of these that it has."""
STANDARD_ERRORS = 2
"""Differences of fewer standard errors are noise."""

Outcome = Literal["above", "below", "noise"]
_WORDS: Mapping[Outcome, str] = {"above": "above", "below": "below", "noise": "within noise of"}


@dataclass(frozen=True)
class Comparison:
    """A score beside one of a reference.

    Attributes:
        reference: Name of the reference.
        value: Score of the reference.
        difference: How much the trained backbone is above it.
        noise: Smaller differences are noise: two standard errors. None if the number of test samples is not known.
    """

    reference: str
    value: float
    difference: float
    noise: float | None

    @property
    def outcome(self) -> Outcome:
        """Whether the trained backbone is above the reference, below it, or within noise."""
        if abs(self.difference) <= (self.noise or 0.0):
            return "noise"
        return "above" if self.difference > 0 else "below"

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "outcome": self.outcome}

    def __str__(self) -> str:
        noise = "" if self.noise is None else f" ± {100 * self.noise:.1f}"
        return f"{100 * self.difference:+.1f}{noise}"


@dataclass(frozen=True)
class ProbeVerdict:
    """The verdict of one probe.

    Attributes:
        trained: Score of the trained backbone.
        random: Its comparison with the stronger one of the random weights, as initialised and calibrated.
        pixels: Its comparison with raw pixels.
    """

    probe: str
    metric: str
    trained: float
    random: Comparison
    pixels: Comparison | None

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "probe": self.probe,
            "metric": self.metric,
            "trained": self.trained,
            "random": self.random.describe(),
            "pixels": self.pixels.describe() if self.pixels else None,
        }


@dataclass(frozen=True)
class Verdict:
    """The verdicts of all probes of a run."""

    probes: Sequence[ProbeVerdict]

    @property
    def learned(self) -> bool:
        """Whether some probe is above its random weights."""
        return any(item.random.outcome == "above" for item in self.probes)

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values, with the words."""
        return {"text": str(self), "learned": self.learned, "probes": [item.describe() for item in self.probes]}

    def __str__(self) -> str:
        parts = [f"trained is {_sentence('random weights', self.probes, lambda item: item.random)}"]
        if not self.learned:
            parts.append("nothing was learned that these probes can see")
        with_pixels = [item for item in self.probes if item.pixels]
        if with_pixels:
            parts.append(f"it is {_sentence('raw pixels', with_pixels, lambda item: item.pixels)}")
        if any(item.random.noise is not None for item in self.probes):
            parts.append(f"differences in points ± {STANDARD_ERRORS} standard errors of the test samples")
        return "; ".join(parts)


def _sentence(
    reference: str, probes: Sequence[ProbeVerdict], compare: Callable[[ProbeVerdict], Comparison | None]
) -> str:  # fmt: skip
    """Say on how many probes the trained backbone is above a reference, below it and within noise."""
    differences: dict[Outcome, list[str]] = {"above": [], "below": [], "noise": []}
    for item in probes:
        comparison = compare(item)
        if comparison:
            differences[comparison.outcome].append(f"{comparison} on {item.probe}")
    return ", ".join(
        f"{_WORDS[outcome]} {reference} on {len(texts)} of {len(probes)} probe{'s' * (len(probes) != 1)} "
        f"({', '.join(texts)})"
        for outcome, texts in differences.items()
        if texts
    )


def judge(scores: Mapping[str, ProbeScores]) -> Verdict | None:
    """Compare the trained backbone of a run with its references; None where there is nothing to compare.

    Args:
        scores: Name of the features -> scores, as in a run's probes.json.
    """
    verdicts = [_judge_probe(name, scores) for name in scores.get("trained", {})]
    known = tuple(item for item in verdicts if item)
    return Verdict(known) if known else None


def _judge_probe(probe: str, scores: Mapping[str, ProbeScores]) -> ProbeVerdict | None:
    trained = scores["trained"][probe]
    metric = next((name for name in METRICS if name in trained), None)
    random = {name: scores.get(name, {}).get(probe, {}) for name in (RANDOM_WEIGHTS, RANDOM_WEIGHTS + CALIBRATED)}
    random = {name: values for name, values in random.items() if metric in values}
    if metric is None or not random:
        return None
    stronger = max(random, key=lambda name: random[name][metric])
    pixels = scores.get(RAW_PIXELS, {}).get(probe, {})
    return ProbeVerdict(
        probe, metric, trained[metric], _compare(stronger, metric, trained, random[stronger]),
        _compare(RAW_PIXELS, metric, trained, pixels) if metric in pixels else None,
    )  # fmt: skip


def _compare(name: str, metric: str, trained: Mapping[str, float], reference: Mapping[str, float]) -> Comparison:
    counts = [sample_count(metric, scores) for scores in (trained, reference)]
    a, b, noise = trained[metric], reference[metric], None
    if counts[0] and counts[1]:
        noise = STANDARD_ERRORS * difference_error(a, b, counts[0], counts[1])
    return Comparison(name, b, a - b, noise)
