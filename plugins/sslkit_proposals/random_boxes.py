"""The proposer `random-boxes`, which needs no search and no store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from sslkit.api import Progress, Proposals, Proposer, Source
from sslkit.boxes import Boxes, empty
from sslkit.errors import DataError
from sslkit_proposals.files import encode_name, hash_bytes
from sslkit_proposals.search import IntBoxes
from sslkit_proposals.select import suppress_overlaps

CANDIDATES = 10
"""Number of boxes drawn per requested box, before overlapping ones are dropped."""


class RandomBoxes(Proposer):
    """Random boxes under the same constraints as proposals, drawn on the fly: a control without any search.

    The boxes of an image depend on its key and `seed` alone. Areas, between `min_side` squared and the whole image, and
    aspect ratios are log-uniform.

    Args:
        count: Maximum number of boxes per image; fewer if they do not fit.
        min_side: Minimum width and height in pixels; half the short side of a smaller image.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap (IoU) between two boxes of an image.
        seed: Seed of the boxes.
    """

    name = "random-boxes"

    def __init__(
        self,
        *,
        count: Annotated[int, Field(ge=1, le=10_000)] = 30,
        min_side: Annotated[int, Field(ge=1)] = 64,
        max_aspect: Annotated[float, Field(ge=1)] = 3.0,
        max_iou: Annotated[float, Field(ge=0, le=1)] = 0.5,
        seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    ) -> None:
        self.rules = BoxConstraints(count, min_side, max_aspect, max_iou, seed)

    def missing(self, source: Source) -> str | None:  # noqa: ARG002
        """Return None: nothing has to be built."""
        return None

    def build(self, source: Source, progress: Progress, jobs: int) -> None:
        """Do nothing."""

    def open(self, source: Source) -> Proposals:
        """Return boxes that are drawn on access."""
        return RandomProposals(source, self.rules)


@dataclass(frozen=True)
class BoxConstraints:
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
    rules: BoxConstraints

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Boxes:
        from sslkit.images import upright_size

        key = self.source.key(index)
        try:
            height, width = upright_size(self.source.read(index), key)
        except (DataError, OSError):
            return empty()
        rng = np.random.default_rng([self.rules.seed, hash_bytes(encode_name(key))])
        return draw(height, width, self.rules, rng).astype(np.float32)


def draw(height: int, width: int, rules: BoxConstraints, rng: np.random.Generator) -> IntBoxes:
    """Draw at most `rules.count` boxes inside an image of `height` x `width` pixels, at least one."""
    short = min(height, width)
    min_side = rules.min_side if short >= rules.min_side else max(1, short // 2)
    boxes = _draw_candidates(height, width, min_side, rules, rng)
    size = boxes[:, 2:] - boxes[:, :2]
    valid = (size.min(axis=1) >= min_side) & (size.max(axis=1) <= rules.max_aspect * size.min(axis=1))
    inside = (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
    candidates = boxes[valid & inside]
    if not len(candidates):
        return np.array([[0, 0, min_side, min_side]], np.int64)
    selected: IntBoxes = candidates[suppress_overlaps(candidates, rules.max_iou, rules.count)]
    return selected


def _draw_candidates(
    height: int, width: int, min_side: int, rules: BoxConstraints, rng: np.random.Generator
) -> IntBoxes:
    total = CANDIDATES * rules.count
    area = np.exp(rng.uniform(2 * np.log(min_side), np.log(height * width), total))
    aspect = np.exp(rng.uniform(-np.log(rules.max_aspect), np.log(rules.max_aspect), total))
    size = np.rint(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1))
    free = np.maximum(np.array([width, height]) - size, 0)
    corner = np.floor(rng.random((total, 2)) * (free + 1))
    return np.concatenate([corner, corner + size], axis=1).astype(np.int64)
