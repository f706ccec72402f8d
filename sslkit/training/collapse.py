"""The collapse sentinel: says when features have become the same for all images, and what is the likely cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, float]

SPREAD = 0.05
"""A standard deviation below this counts as constant: the mean cosine of two images is above 0.997."""
TIGHT = 0.1
"""The same where the target agrees with the online network to `AGREED`: the two went to one constant together."""
AGREED = 0.99
UNIFORM = -0.01
"""`uniformity` above this counts as constant; it says the same of all but a few images."""
RANK_SHARE = 0.02
"""RankMe below this share of D, or below 2, counts as too few dimensions."""
PATIENCE = 50
"""Steps in a row for which the features must be constant."""
MEASUREMENTS = 3
"""Measurements of RankMe in a row that must be low."""
GRACE = (100, 1000)
"""At least and at most so many first steps raise no alarm; in between, the warm-up of the learning rate decides."""


@dataclass(frozen=True)
class Facts:
    """What a recipe says about what keeps features apart.

    Attributes:
        predicts: Whether some objective reads a predictor's output.
        couples: Whether some objective compares images with each other.
        target: Whether there is a target network.
        momentum: The target's, at the first and the last step.
        batch_norm: Whether some projector or predictor has batch norm.
        images: Of one pass in one process, of which batch norm takes its statistics.
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
        values: What was seen in this step.
        message: All of it in words, with the likely cause and what to change.
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
"""Sign -> (what a step says of it: yes, no, or nothing; how often in a row it must)."""


@dataclass
class CollapseDetector:
    """Looks at every step's values; raises an alarm once a sign has held for long enough after the first steps.

    Attributes:
        facts: For the likely cause.
        counts: Sign -> how often in a row it has been seen.
        told: Signs that were told.
        first: What the first step gave, to compare with.
    """

    facts: Facts
    counts: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)

    @property
    def grace(self) -> int:
        """First steps that raise no alarm: features narrow and spread again while a run finds its way."""
        return min(max(self.facts.warmup, GRACE[0]), GRACE[1])

    def see(self, step: int, terms: Values, once: bool = True) -> Alarm | None:
        """Take in what step `step` (from 1) gave; return an alarm where there is one.

        Args:
            step: Optimizer steps done.
            terms: Losses and monitors, the same in all processes.
            once: Whether a sign that was told is not told again.
        """
        if not self.first:
            self.first = {name: terms[name] for name in _EVIDENCE if name in terms}
        if step <= self.grace:
            return None
        for sign, (holds, patience) in _SIGNS.items():
            seen = holds(terms)
            if seen is not None:
                self.counts[sign] = self.counts.get(sign, 0) + 1 if seen else 0
            if seen and self.counts[sign] >= patience and sign not in self.told:
                if once:
                    self.told.append(sign)
                return Alarm(sign, step, _evidence(terms), self._message(sign, step, terms))
        return None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"counts": dict(self.counts), "told": list(self.told), "first": dict(self.first)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.counts, self.told, self.first = dict(state["counts"]), list(state["told"]), dict(state["first"])

    def _message(self, sign: str, step: int, terms: Values) -> str:
        what = {
            "constant": f"the features are nearly the same for all images, for {self.counts[sign]} steps in a row",
            "constant-predictions": "the predictor gives nearly the same for all images, while projections are spread, "
            f"for {self.counts[sign]} steps in a row",
            "few-dimensions": f"the features lie in few dimensions, in {self.counts[sign]} measurements in a row",
        }[sign]
        began = _told(self.first)
        likely, *others = causes(self.facts, self.first, sign)
        lines = [f"collapse at step {step}: {what} ({_told(_evidence(terms))}"]
        lines[0] += f"; step 1 had {began})" if began else ")"
        lines.append(f"    likely cause: {likely}")
        lines += [f"    or: {cause}" for cause in others]
        return "\n".join(lines)


_EVIDENCE = ("loss", "grad_norm", "feature_std", "prediction_std", "uniformity", "alignment", "target_similarity")


def _evidence(terms: Values) -> dict[str, float]:
    ranks = [name + end for name in _RANKS if name in terms for end in ("", "_n", "_d")]
    return {name: terms[name] for name in [*_EVIDENCE, *ranks] if name in terms}


def _told(values: Values) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def causes(facts: Facts, first: Values, sign: str = "constant") -> list[str]:
    """Return what may be behind a collapse, likeliest first, each with what to change; never empty.

    Args:
        facts: What the recipe says.
        first: What the first step gave; views of an image that were the same there are a cause.
        sign: What was seen.
    """
    return [*_causes(facts, first, sign), _too_fast(facts)]


def _causes(facts: Facts, first: Values, sign: str) -> Iterator[str]:
    if first.get("alignment", 1.0) < 1e-6 and first.get("feature_std", 0.0) > SPREAD:
        yield (
            "the views of an image are the same (alignment 0 in step 1), so that there is nothing to learn: "
            "augment them in [[augment.GROUP]], and use a sampler that cuts different crops"
        )
    if sign == "constant-predictions":
        yield (
            "the predictor has settled on the mean of its targets, as views share too little to be predicted or the "
            "targets move too fast: milder augmentation or more overlap of the views, a higher [target] momentum "
            f"(now {facts.momentum[0]:g}), or more steps before it is judged"
        )
        return
    if facts.couples:
        if sign == "few-dimensions":
            yield (
                "the objective that pushes images apart weighs too little, or its temperature is too high, "
                "or the projector is too narrow: raise its weight, or [heads.NAME] projector.out"
            )
        return
    if not facts.predicts:
        yield (
            "no objective compares images with each other and none reads a predictor's output, so that nothing keeps "
            "the networks from one constant for all images: write a predictor in [heads.NAME] and an objective that "
            "reads predictions, or add one that pushes images apart (contrastive, or with a variance term)"
        )
    elif not facts.target:
        yield (
            "no objective compares images with each other, and there is no target network: what the predictor is "
            "compared with must carry no gradient, or an objective must push images apart"
        )
    if facts.target:
        yield from _target(facts)
    if not facts.batch_norm:
        yield (
            "no projector or predictor has batch norm, without which objectives that only pull views together often "
            'collapse at the start: write norm = "batch" in the head, or spend a longer warm-up'
        )
    elif facts.images < 16:
        yield (
            f"batch norm takes its statistics of {facts.images} images a pass, which is few: "
            "raise batch_size, or lower accumulate"
        )


def _target(facts: Facts) -> Iterator[str]:
    low = facts.momentum[0]
    if low < 0.9:
        moves = "is a copy of the online network" if low == 0 else "follows the online network closely"
        yield f"the target {moves}: [target] momentum = {low:g}; 0.99 to 0.999 are usual"
    elif low == 1:
        yield "the target never moves from its random weights: [target] momentum = 1; 0.99 to 0.999 are usual"


def _too_fast(facts: Facts) -> str:
    warm = f"a warm-up of {facts.warmup} steps" if facts.warmup else "no warm-up"
    return (
        f"the learning rate is too high for the start (peak {facts.lr:.4g}, {warm}), or weight decay too strong: "
        "lower [optimizer] base_lr, or raise warmup_epochs"
    )
