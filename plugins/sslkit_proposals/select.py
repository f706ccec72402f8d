"""From an image's raw regions to its proposals: order, minimum side, aspect ratio, overlap, number."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sslkit_proposals.search import IntBoxes

Order = Literal["random", "small-first", "large-first", "stored"]

RULES_OF_SELECTION = 1
"""Raised when a change here selects other boxes under the same options."""

SHRUNK, FIRST, WHOLE, NOTHING = 250, 251, 252, 253
"""Rungs beside the indices of `min_sides`: side shrunk, first raw box, whole image, unreadable image."""


@dataclass(frozen=True)
class Rules:
    """How raw regions are filtered; the defaults are UniVIP's and ORL's.

    Attributes:
        min_sides: Minimum widths and heights in pixels, tried in turn.
        enough: The next minimum side is tried when fewer boxes than this survive.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap with a box that was kept before.
        top: How many boxes are kept at most; None for all.
        order: The order in which the filter goes through the boxes.
        seed: Of the random order.
    """

    min_sides: tuple[int, ...] = (96, 64)
    enough: int = 4
    max_aspect: float = 3.0
    max_iou: float = 0.5
    top: int | None = 100
    order: Order = "random"
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Return everything that the selection depends on, beside the raw regions."""
        return {"rules": RULES_OF_SELECTION, **asdict(self)}


class Selected(NamedTuple):
    """An image's proposals and their rung: an index into `min_sides`, SHRUNK, FIRST, WHOLE or NOTHING."""

    boxes: IntBoxes
    rung: int


def select(raw: IntBoxes, height: int, width: int, rules: Rules) -> Selected:
    """Filter the raw regions of an image of `height` x `width` pixels.

    Each minimum side is tried on the raw regions again, not on what an earlier one left, until `enough` boxes
    survive; if none leaves enough, the one that keeps most is taken. An image whose short side is below the
    last minimum side gets half its short side as the minimum. When nothing survives, the first raw box is
    kept, as ORL does, and without raw boxes the whole image.
    """
    boxes = ranked(raw, rules)
    best = max(_tries(boxes, min(height, width), rules), key=lambda tried: len(tried.boxes))
    if len(best.boxes):
        return best
    if len(boxes):
        return Selected(boxes[:1], FIRST)
    return Selected(np.array([[0, 0, width, height]], np.int64), WHOLE)


def _tries(boxes: IntBoxes, short: int, rules: Rules) -> Sequence[Selected]:
    """Return what each minimum side keeps, ending with the first that keeps enough."""
    if short < rules.min_sides[-1]:
        return [Selected(survivors(boxes, short / 2, rules), SHRUNK)]
    tries = []
    for rung, min_side in enumerate(rules.min_sides):
        tries.append(Selected(survivors(boxes, min_side, rules), rung))
        if len(tries[-1].boxes) >= rules.enough:
            return tries[-1:]
    return tries


def survivors(boxes: IntBoxes, min_side: float, rules: Rules) -> IntBoxes:
    """Filter boxes in the order in which they come, greedily, as ORL's `SelectiveSearch` filter does."""
    size = boxes[:, 2:] - boxes[:, :2]
    short, long = size.min(axis=1), size.max(axis=1)
    shaped = boxes[(short >= min_side) & (long <= rules.max_aspect * short)]
    kept: IntBoxes = shaped[apart(shaped, rules.max_iou, rules.top)]
    return kept


def apart(boxes: IntBoxes, max_iou: float, top: int | None = None) -> npt.NDArray[np.intp]:
    """Return the indices of at most `top` boxes that overlap none kept before by more than `max_iou`."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left = np.arange(len(boxes))
    kept: list[np.intp] = []
    while len(left) and (top is None or len(kept) < top):
        first, left = left[0], left[1:]
        kept.append(first)
        left = left[_iou(boxes[first], area[first], boxes[left], area[left]) <= max_iou]
    return np.array(kept, np.intp)


def _iou(box: IntBoxes, area: np.int64, boxes: IntBoxes, areas: IntBoxes) -> npt.NDArray[np.float64]:
    """Intersection over union in whole pixels, exact up to the one division."""
    wide = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    high = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    overlap: npt.NDArray[np.float64] = shared / (area + areas - shared)
    return overlap


def ranked(raw: IntBoxes, rules: Rules) -> IntBoxes:
    """Put raw regions into the order in which they are filtered.

    "random" imitates OpenCV's, which ranks a region by a random number times its level in the grouping, so
    that small early regions tend to come first. OpenCV does not tell the level; `1 + log2(area / 100)`, 100
    pixels being its smallest segment, stands in for it. The random numbers depend on `seed` and the boxes.
    """
    if rules.order == "stored" or not len(raw):
        return raw
    area = (raw[:, 2:] - raw[:, :2]).prod(axis=1)
    if rules.order == "small-first":
        return raw[np.argsort(area, kind="stable")]
    if rules.order == "large-first":
        return raw[np.argsort(-area, kind="stable")]
    level = 1 + np.log2(np.maximum(area / 100, 1))
    chance = np.random.default_rng([rules.seed, zlib.crc32(raw.astype("<i4").tobytes())]).random(len(raw))
    return raw[np.argsort(chance * level, kind="stable")]
