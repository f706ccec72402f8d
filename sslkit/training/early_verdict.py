"""Warn early when online probes say that a run learns nothing, and name the likely causes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, float]

WARN_AFTER = 20_000
"""Images seen before a run is judged."""
WARN_AFTER_SHARE = 0.1
"""Share of the run before it is judged, if that is later."""
LOW_PREDICTION_STD = 0.2
"""A `prediction_std` below this says that predictions of different images still share one direction."""
SMALL_VIEW = 64
"""Views with a smaller side, in pixels, are too small for the usual blur and colour jitter."""
USUAL_SATURATION, USUAL_HUE = 0.2, 0.1
"""Colour jitter of the papers, for photos at 224 px: not above both counts as weak for small views."""


@dataclass(frozen=True)
class LearningTraits:
    """The traits of a recipe that decide how soon features improve.

    Attributes:
        single_cell: View group -> size of its views, where the backbone's last map is 1 x 1.
        plain_projectors: Heads whose projector could normalise its output, and does not.
        blurred: View group -> size of its views, where small views are blurred.
        weak_colour: View group -> (size, saturation, hue), where small views have the usual colour jitter or less.
        lr: Peak learning rate.
    """

    single_cell: Mapping[str, int]
    plain_projectors: tuple[str, ...]
    blurred: Mapping[str, int]
    weak_colour: Mapping[str, tuple[int, float, float]]
    lr: float


@dataclass(frozen=True)
class Baseline:
    """What an online score is compared with.

    Attributes:
        value: The score of random weights: the better one of those as initialised and those with calibrated batch norm.
        name: Which of the two it is.
        count: Number of test samples behind the score; see `sslkit.probes.noise.sample_count`.
    """

    value: float
    name: str
    count: float

    @property
    def error(self) -> float:
        """Standard error of the score as a share of independent samples."""
        return math.sqrt(max(self.value * (1 - self.value), 0.0) / self.count)


@dataclass
class EarlyVerdict:
    """The newest online scores, and whether the run was warned about them.

    Attributes:
        traits: Traits of the recipe, for the likely causes.
        images: Images of the whole run.
        newest: Term -> newest score.
        warned: Whether the run was warned.
    """

    traits: LearningTraits
    images: int
    newest: dict[str, float] = field(default_factory=dict)
    warned: bool = False

    @property
    def warn_after(self) -> float:
        """Images seen before the run is judged."""
        return max(WARN_AFTER, WARN_AFTER_SHARE * self.images)

    def update(self, step: int, images: int, scores: Values, baselines: Mapping[str, Baseline], terms: Values) -> str:
        """Add scores; return a warning if it is time and none of them is above its baseline, and "" otherwise.

        Args:
            step: The step, from 1.
            images: Images seen so far.
            scores: Term -> score, of the probes that were measured at this step.
            baselines: Term -> its baseline.
            terms: Losses and monitors of this step.
        """
        self.newest |= scores
        known = {name: (self.newest[name], baseline) for name, baseline in baselines.items() if name in self.newest}
        if self.warned or images < self.warn_after or not known:
            return ""
        if any(score > baseline.value + baseline.error for score, baseline in known.values()):
            return ""
        self.warned = True
        return self._message(step, images, known, terms)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"newest": dict(self.newest), "warned": self.warned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self.newest, self.warned = dict(state["newest"]), state["warned"]

    def _message(self, step: int, images: int, known: Mapping[str, tuple[float, Baseline]], terms: Values) -> str:
        rows = [
            f"{name} {score:.3f}, {base.name} {base.value:.3f} +- {base.error:.3f}"
            for name, (score, base) in known.items()
        ]
        what = "no online probe is above random weights by more than a standard error"
        likely, *others = causes(self.traits, terms)
        lines = [f"step {step}, {images:,} images seen: {what} ({'; '.join(rows)})", f"    likely cause: {likely}"]
        return "\n".join([*lines, *(f"    or: {cause}" for cause in others)])


def causes(traits: LearningTraits, terms: Values) -> list[str]:
    """Return possible causes of features that do not improve, likeliest first, each with what to change; never empty.

    Args:
        traits: Traits of the recipe.
        terms: Losses and monitors of a step.
    """
    return [*_causes(traits, terms), _too_few_steps(traits)]


def _causes(traits: LearningTraits, terms: Values) -> Iterator[str]:
    if traits.single_cell:
        yield (
            f"the backbone reduces {_sizes(traits.single_cell)} to a map of 1 x 1, from which little is learned: use "
            "a backbone with fewer strides, or larger views"
        )
    std = terms.get("prediction_std", 1.0)
    if std < LOW_PREDICTION_STD:
        advice = "raise the target's momentum, or lower [optimizer] base_lr"
        if traits.plain_projectors:
            heads = ", ".join(f"[heads.{name}]" for name in traits.plain_projectors)
            advice = f"write last_norm = true in the projector of {heads}"
        yield (
            f"predictions of different images are nearly the same (prediction_std {std:.2g}, healthy above "
            f"{LOW_PREDICTION_STD:g}): {advice}"
        )
    if traits.weak_colour:
        group, (size, saturation, hue) = next(iter(traits.weak_colour.items()))
        yield (
            f"small views match by their colours alone: saturation = {saturation:g} and hue = {hue:g} of group "
            f"'{group}' ({size} px) are meant for photos at 224 px; write saturation = 0.8 and hue = 0.2 in "
            f"{_tables(traits.weak_colour)}"
        )
    if traits.blurred:
        yield (
            f"blur removes most of what {_sizes(traits.blurred)} show: write blur = 0.0 in {_tables(traits.blurred)}"
        )


def _sizes(groups: Mapping[str, int]) -> str:
    return " and ".join(f"views of {size} px (group '{group}')" for group, size in groups.items())


def _tables(groups: Mapping[str, Any]) -> str:
    return ", ".join(f"[[augment.{group}]]" for group in groups)


def _too_few_steps(traits: LearningTraits) -> str:
    return (
        f"too few steps so far, or a learning rate that is too low or too high (peak {traits.lr:.4g}): compare with "
        "[optimizer] base_lr three times as large and a third as large"
    )
