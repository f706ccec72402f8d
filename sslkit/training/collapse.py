"""Detect the collapse of features to one value for all images, and name the likely cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, float]

SPREAD = 0.05
"""A standard deviation below this counts as constant: the mean cosine of two images is above 0.997."""
TIGHT = 0.1
"""The same if target and online network agree to `AGREED`: both went to one constant together."""
AGREED = 0.99
UNIFORM = -0.01
"""`uniformity` above this counts as constant: all images but a few are the same."""
RANK_SHARE = 0.02
"""RankMe below this share of D, or below 2, counts as too few dimensions."""
PATIENCE = 50
"""Steps in a row in which the features must be constant."""
MEASUREMENTS = 3
"""Measurements of RankMe in a row that must be low."""
GRACE = (100, 1000)
"""The smallest and largest number of first steps without an alarm; in between, the learning rate's warm-up."""


@dataclass(frozen=True)
class RecipeTraits:
    """The traits of a recipe that keep features apart.

    Attributes:
        predicts: Whether some objective reads a predictor's output.
        couples: Whether some objective compares images with each other.
        target: Whether there is a target network.
        momentum: Target momentum at the first and the last step.
        batch_norm: Whether some projector or predictor has batch norm.
        images: Images per micro-batch and rank, over which batch norm takes its statistics.
        lr: Peak learning rate.
        warmup: Optimizer steps of its warm-up.
    """

    predicts: bool
    couples: bool
    target: bool
    momentum: tuple[float, float]
    batch_norm: bool
    images: int
    lr: float
    warmup: int


@dataclass(frozen=True)
class Alarm:
    """A collapse.

    Attributes:
        sign: "constant", "constant-predictions" or "few-dimensions".
        step: Optimizer steps done.
        values: The evidence, from this step.
        message: The alarm in words, with the likely cause and what to change.
    """

    sign: str
    step: int
    values: Values
    message: str


def _constant(terms: Values) -> bool | None:
    std = terms.get("feature_std")
    if std is None:
        return None
    together = std < TIGHT and terms.get("target_similarity", 0.0) > AGREED
    return std < SPREAD or together or terms.get("uniformity", UNIFORM) > UNIFORM


def _constant_predictions(terms: Values) -> bool | None:
    return terms["prediction_std"] < SPREAD and not _constant(terms) if "prediction_std" in terms else None


def _few_dimensions(terms: Values) -> bool | None:
    ranks = [(terms[name], terms[f"{name}_d"]) for name in _RANKS if name in terms]
    return any(rank < max(2.0, RANK_SHARE * d) and d > 2 for rank, d in ranks) if ranks else None


_RANKS = ("rankme.features", "rankme.projection")
_SIGNS: Mapping[str, tuple[Callable[[Values], bool | None], int]] = {
    "constant": (_constant, PATIENCE),
    "constant-predictions": (_constant_predictions, PATIENCE),
    "few-dimensions": (_few_dimensions, MEASUREMENTS),
}
"""Sign -> (whether a step shows it, None if it cannot tell; how often in a row it must)."""


@dataclass
class CollapseDetector:
    """Watch every step's values, and raise an alarm when a sign lasts long enough after the first steps.

    Attributes:
        traits: Traits of the recipe, for the likely cause.
        counts: Sign -> times in a row that it was seen.
        reported: Signs that raised an alarm.
        first: Values of the first step, for comparison.
    """

    traits: RecipeTraits
    counts: dict[str, int] = field(default_factory=dict)
    reported: list[str] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)

    @property
    def grace(self) -> int:
        """First steps that raise no alarm: at the start of a run, features often narrow and spread again."""
        return min(max(self.traits.warmup, GRACE[0]), GRACE[1])

    def update(self, step: int, terms: Values, once: bool = True) -> Alarm | None:
        """Add the values of a step; return an alarm if a sign has lasted long enough.

        Args:
            step: The step, from 1.
            terms: Losses and monitors, the same on all ranks.
            once: Whether each sign raises a single alarm.
        """
        if not self.first:
            self.first = {name: terms[name] for name in _EVIDENCE if name in terms}
        if step <= self.grace:
            return None
        for sign, (holds, patience) in _SIGNS.items():
            seen = holds(terms)
            if seen is not None:
                self.counts[sign] = self.counts.get(sign, 0) + 1 if seen else 0
            if seen and self.counts[sign] >= patience and sign not in self.reported:
                if once:
                    self.reported.append(sign)
                return Alarm(sign, step, _evidence(terms), self._message(sign, step, terms))
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, under the keys that it has always had there."""
        return {"counts": dict(self.counts), "told": list(self.reported), "first": dict(self.first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self.counts, self.reported, self.first = dict(state["counts"]), list(state["told"]), dict(state["first"])

    def _message(self, sign: str, step: int, terms: Values) -> str:
        what = {
            "constant": f"the features are nearly the same for all images, for {self.counts[sign]} steps in a row",
            "constant-predictions": "the predictor's output is nearly the same for all images, but projections are "
            f"spread, for {self.counts[sign]} steps in a row",
            "few-dimensions": f"the features lie in few dimensions, in {self.counts[sign]} measurements in a row",
        }[sign]
        began = _in_words(self.first)
        likely, *others = causes(self.traits, self.first, sign)
        lines = [f"collapse at step {step}: {what} ({_in_words(_evidence(terms))}"]
        lines[0] += f"; step 1 had {began})" if began else ")"
        lines.append(f"    likely cause: {likely}")
        lines += [f"    or: {cause}" for cause in others]
        return "\n".join(lines)


_EVIDENCE = ("loss", "grad_norm", "feature_std", "prediction_std", "uniformity", "alignment", "target_similarity")


def _evidence(terms: Values) -> dict[str, float]:
    ranks = [name + end for name in _RANKS if name in terms for end in ("", "_n", "_d")]
    return {name: terms[name] for name in [*_EVIDENCE, *ranks] if name in terms}


def _in_words(values: Values) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def causes(traits: RecipeTraits, first: Values, sign: str = "constant") -> list[str]:
    """Return possible causes of a collapse, likeliest first, each with what to change; never empty.

    Args:
        traits: Traits of the recipe.
        first: Values of the first step; identical views of an image show there.
        sign: The sign that was seen.
    """
    return [*_causes(traits, first, sign), _too_fast(traits)]


def _causes(traits: RecipeTraits, first: Values, sign: str) -> Iterator[str]:
    if first.get("alignment", 1.0) < 1e-6 and first.get("feature_std", 0.0) > SPREAD:
        yield (
            "the views of an image are the same (alignment 0 in step 1), so that there is nothing to learn: "
            "augment them in [[augment.GROUP]], and use a sampler that draws different crops"
        )
    if sign == "constant-predictions":
        yield (
            "the predictor has settled on the mean of its targets, as views share too little to be predicted or the "
            "targets move too fast: milder augmentation or more overlap of the views, a higher [target] momentum "
            f"(now {traits.momentum[0]:g}), or more steps before it is judged"
        )
        return
    if traits.couples:
        if sign == "few-dimensions":
            yield (
                "the objective that pushes images apart weighs too little, or its temperature is too high, "
                "or the projector is too narrow: raise its weight, or [heads.NAME] projector.out"
            )
        return
    if not traits.predicts:
        yield (
            "no objective compares images with each other and none reads a predictor's output, so nothing keeps the "
            "networks from one constant for all images: write a predictor in [heads.NAME] and an objective that "
            "reads predictions, or add one that pushes images apart (contrastive, or with a variance term)"
        )
    elif not traits.target:
        yield (
            "no objective compares images with each other, and there is no target network: what the predictor is "
            "compared with must carry no gradient, or an objective must push images apart"
        )
    if traits.target:
        yield from _target(traits)
    if not traits.batch_norm:
        yield (
            "no projector or predictor has batch norm, without which objectives that only pull views together often "
            'collapse at the start: write norm = "batch" in the head, or spend a longer warm-up'
        )
    elif traits.images < 16:
        yield (
            f"batch norm takes its statistics over {traits.images} images per micro-batch, which is few: "
            "raise batch_size, or lower accumulate"
        )


def _target(traits: RecipeTraits) -> Iterator[str]:
    low = traits.momentum[0]
    if low < 0.9:
        moves = "is a copy of the online network" if low == 0 else "follows the online network closely"
        yield f"the target {moves}: [target] momentum = {low:g}; 0.99 to 0.999 are usual"
    elif low == 1:
        yield "the target never moves from its random weights: [target] momentum = 1; 0.99 to 0.999 are usual"


def _too_fast(traits: RecipeTraits) -> str:
    warm = f"a warm-up of {traits.warmup} steps" if traits.warmup else "no warm-up"
    return (
        f"the learning rate is too high for the start (peak {traits.lr:.4g}, {warm}), or weight decay too strong: "
        "lower [optimizer] base_lr, or lengthen its warm-up"
    )
