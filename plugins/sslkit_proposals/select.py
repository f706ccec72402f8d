"""Select an image's proposals from its raw regions: order, minimum side, aspect ratio, overlap, number."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sslkit_proposals.search import IntBoxes

Order = Literal["random", "small-first", "large-first", "stored"]

SELECTION_VERSION = 1
"""Increase it when the same options select different boxes."""

SHRUNK, FIRST, WHOLE, NOTHING = 250, 251, 252, 253
"""Rungs other than the indices of `min_sides`: reduced side, first raw box, whole image, unreadable image."""


@dataclass(frozen=True)
class Rules:
    """The rules that filter raw regions. The defaults are UniVIP's and ORL's.

    Attributes:
        min_sides: Minimum widths and heights in pixels, tried in turn.
        enough: If fewer boxes than this remain, the next minimum side is tried.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap (IoU) with a box that is already selected.
        top: Maximum number of selected boxes; None for all.
        order: The order in which the boxes are filtered.
        seed: Seed of the random order.
    """

    min_sides: tuple[int, ...] = (96, 64)
    enough: int = 4
    max_aspect: float = 3.0
    max_iou: float = 0.5
    top: int | None = 100
    order: Order = "random"
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Return everything that the selection depends on, apart from the raw regions."""
        return {"rules": SELECTION_VERSION, **asdict(self)}


class Selection(NamedTuple):
    """An image's proposals and their rung: an index into `min_sides`, SHRUNK, FIRST, WHOLE or NOTHING."""

    boxes: IntBoxes
    rung: int


def select(raw: IntBoxes, height: int, width: int, rules: Rules) -> Selection:
    """Filter the raw regions of an image of `height` x `width` pixels.

    Each minimum side filters the raw regions afresh, not the boxes that an earlier one left, until `enough` boxes
    remain. If no side leaves enough, the one that leaves the most is used. An image whose short side is below the last
    minimum side gets half its short side as the minimum. If no box remains, the first raw box is selected, as in ORL,
    or without raw boxes the whole image.
    """
    boxes = order_regions(raw, rules)
    best = max(_attempts(boxes, min(height, width), rules), key=lambda selection: len(selection.boxes))
    if len(best.boxes):
        return best
    if len(boxes):
        return Selection(boxes[:1], FIRST)
    return Selection(np.array([[0, 0, width, height]], np.int64), WHOLE)


def _attempts(boxes: IntBoxes, short: int, rules: Rules) -> Sequence[Selection]:
    """Return the selection of each minimum side, or only that of the first side that leaves enough boxes."""
    if short < rules.min_sides[-1]:
        return [Selection(filter_boxes(boxes, short / 2, rules), SHRUNK)]
    attempts = []
    for rung, min_side in enumerate(rules.min_sides):
        attempts.append(Selection(filter_boxes(boxes, min_side, rules), rung))
        if len(attempts[-1].boxes) >= rules.enough:
            return attempts[-1:]
    return attempts


def filter_boxes(boxes: IntBoxes, min_side: float, rules: Rules) -> IntBoxes:
    """Filter boxes greedily in their order, as ORL's `SelectiveSearch` filter does."""
    size = boxes[:, 2:] - boxes[:, :2]
    short, long = size.min(axis=1), size.max(axis=1)
    candidates = boxes[(short >= min_side) & (long <= rules.max_aspect * short)]
    selected: IntBoxes = candidates[suppress_overlaps(candidates, rules.max_iou, rules.top)]
    return selected


def suppress_overlaps(boxes: IntBoxes, max_iou: float, top: int | None = None) -> npt.NDArray[np.intp]:
    """Return the indices of at most `top` boxes, each with an IoU of at most `max_iou` with those before it."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    remaining = np.arange(len(boxes))
    selected: list[np.intp] = []
    while len(remaining) and (top is None or len(selected) < top):
        first, remaining = remaining[0], remaining[1:]
        selected.append(first)
        remaining = remaining[_iou(boxes[first], area[first], boxes[remaining], area[remaining]) <= max_iou]
    return np.array(selected, np.intp)


def _iou(box: IntBoxes, area: np.int64, boxes: IntBoxes, areas: IntBoxes) -> npt.NDArray[np.float64]:
    """Compute intersection over union in whole pixels, exact up to the one division."""
    wide = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    high = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    overlap: npt.NDArray[np.float64] = shared / (area + areas - shared)
    return overlap


def order_regions(raw: IntBoxes, rules: Rules) -> IntBoxes:
    """Sort raw regions into the order in which they are filtered.

    "random" imitates OpenCV, which ranks a region by a random number times its level in the grouping, so that small,
    early regions tend to come first. OpenCV does not expose the level; `1 + log2(area / 100)` replaces it, as its
    smallest segment has 100 pixels. The random numbers depend on `seed` and the boxes.
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
