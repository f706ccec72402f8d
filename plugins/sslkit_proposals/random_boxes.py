"""The proposer `random-boxes`: no search, no store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from sslkit.api import Progress, Proposals, Proposer, Source
from sslkit.boxes import Boxes, empty
from sslkit.errors import DataError
from sslkit_proposals.files import encoded, number
from sslkit_proposals.search import IntBoxes
from sslkit_proposals.select import apart

CANDIDATES = 10
"""Boxes drawn per box wanted, before those that overlap too much are dropped."""


class RandomBoxes(Proposer):
    """Random boxes under the proposals' constraints, drawn on the fly: a control that costs nothing.

    The boxes of an image depend on its key and `seed` alone. Their areas are uniform in the logarithm,
    between `min_side` squared and the whole image, and so are their aspect ratios.

    Args:
        count: How many boxes an image gets at most; fewer where they do not fit.
        min_side: Minimum width and height in pixels; half the short side of an image that is smaller.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap between two boxes of an image.
        seed: Of the boxes.
    """

    name = "random-boxes"

    def __init__(
        self,
        *,
        count: Annotated[int, Field(ge=1)] = 30,
        min_side: Annotated[int, Field(ge=1)] = 64,
        max_aspect: Annotated[float, Field(ge=1)] = 3.0,
        max_iou: Annotated[float, Field(ge=0, le=1)] = 0.5,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.rules = Constraints(count, min_side, max_aspect, max_iou, seed)

    def missing(self, source: Source) -> str | None:  # noqa: ARG002
        """Return None: nothing is ever missing."""
        return None

    def build(self, source: Source, progress: Progress, jobs: int) -> None:
        """Do nothing."""

    def open(self, source: Source) -> Proposals:
        """Return boxes that are drawn when they are asked for."""
        return RandomProposals(source, self.rules)


@dataclass(frozen=True)
class Constraints:
    """The options of `RandomBoxes`."""

    count: int
    min_side: int
    max_aspect: float
    max_iou: float
    seed: int


@dataclass(frozen=True)
class RandomProposals(Proposals):
    """Boxes drawn from a generator seeded by (seed, key); an unreadable image has none."""

    source: Source
    rules: Constraints

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Boxes:
        from sslkit.images import upright_size

        key = self.source.key(index)
        try:
            height, width = upright_size(self.source.read(index), key)
        except (DataError, OSError):
            return empty()
        rng = np.random.default_rng([self.rules.seed, number(encoded(key))])
        return draw(height, width, self.rules, rng).astype(np.float32)


def draw(height: int, width: int, rules: Constraints, rng: np.random.Generator) -> IntBoxes:
    """Draw at most `rules.count` boxes inside an image of `height` x `width` pixels, at least one."""
    short = min(height, width)
    least = rules.min_side if short >= rules.min_side else max(1, short // 2)
    boxes = _candidates(height, width, least, rules, rng)
    size = boxes[:, 2:] - boxes[:, :2]
    fits = (size.min(axis=1) >= least) & (size.max(axis=1) <= rules.max_aspect * size.min(axis=1))
    inside = (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
    chosen = boxes[fits & inside]
    if not len(chosen):
        return np.array([[0, 0, least, least]], np.int64)
    kept: IntBoxes = chosen[apart(chosen, rules.max_iou, rules.count)]
    return kept


def _candidates(height: int, width: int, least: int, rules: Constraints, rng: np.random.Generator) -> IntBoxes:
    total = CANDIDATES * rules.count
    area = np.exp(rng.uniform(2 * np.log(least), np.log(height * width), total))
    aspect = np.exp(rng.uniform(-np.log(rules.max_aspect), np.log(rules.max_aspect), total))
    size = np.rint(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1))
    free = np.maximum(np.array([width, height]) - size, 0)
    corner = np.floor(rng.random((total, 2)) * (free + 1))
    return np.concatenate([corner, corner + size], axis=1).astype(np.int64)
