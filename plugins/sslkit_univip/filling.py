"""Random boxes inside a region, under constraints that relax step by step, and jitter of existing boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sslkit.boxes import iou
from sslkit.crops import FloatBoxes

CANDIDATES = 64
"""Random boxes per round."""

JITTER_ATTEMPTS = 200
"""Jittered versions of one box that are tried before the box is left unchanged (as many as in ORL)."""


@dataclass(frozen=True)
class Constraints:
    """Limits on the shape and overlap of random boxes.

    Attributes:
        min_side: Smallest width and height, in pixels.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest IoU with any other box.
    """

    min_side: float
    max_aspect: float
    max_iou: float

    def relaxed(self, level: int) -> Constraints:
        """Return weaker constraints: half the side, a quarter, one pixel and any aspect ratio, any overlap."""
        if level < 3:
            return replace(self, min_side=max(1.0, self.min_side / 2**level))
        return Constraints(1.0, np.inf, self.max_iou if level == 3 else 1.0)


LEVELS = 5
"""Number of levels of `Constraints.relaxed`. The last one allows every box inside the region."""


def fill(
    boxes: FloatBoxes, region: FloatBoxes, count: int, constraints: Constraints, rng: np.random.Generator
) -> tuple[FloatBoxes, int]:
    """Add random boxes inside `region` to `boxes` until there are `count`.

    Args:
        boxes: Existing boxes, shape (n, 4), n <= count.
        region: A box in whole pixels, at least one pixel high and wide.
        count: Number of boxes to return.
        constraints: Limits on new boxes, in relation to existing boxes and to each other.
        rng: Random generator; it draws at most `LEVELS` rounds of candidates.

    Returns:
        Boxes (count, 4), existing ones first, and the level of relaxation that was needed: 0 for none, at most 4.
    """
    level = 0
    for level in range(LEVELS):
        limits = constraints.relaxed(level)
        for candidate in draw_candidates(region, limits, rng):
            if len(boxes) == count:
                return boxes, level
            if not len(boxes) or iou(candidate, boxes.astype(np.float32)).max() <= limits.max_iou:
                boxes = np.concatenate([boxes, candidate[None]])
        if len(boxes) == count:
            break
    missing = count - len(boxes)  # above 0 only if `count` exceeds the candidates of a round
    return np.concatenate([boxes, np.repeat(region[None], missing, axis=0)]), level


def draw_candidates(region: FloatBoxes, constraints: Constraints, rng: np.random.Generator) -> FloatBoxes:
    """Draw boxes in whole pixels inside `region`, sides log-uniform, positions uniform; keep those of an allowed shape.

    Only the limits on sides and aspect ratio are checked, not the overlap.
    """
    room = region[2:] - region[:2]
    smallest = np.minimum(np.ceil(constraints.min_side), room)
    draws = rng.random((CANDIDATES, 4))
    size = np.clip(np.rint(smallest * (room / smallest) ** draws[:, :2]), 1, room)
    corner = region[:2] + np.floor(draws[:, 2:] * (room - size + 1))
    short = size.min(axis=1)
    allowed = (short >= constraints.min_side) & (size.max(axis=1) <= constraints.max_aspect * short)
    boxes: FloatBoxes = np.concatenate([corner, corner + size], axis=1)[allowed]
    return boxes


def jitter_boxes(boxes: FloatBoxes, region: FloatBoxes, rng: np.random.Generator) -> FloatBoxes:
    """Shift and reshape each box as ORL does, but never beyond `region`.

    Centres move by up to half a side; areas and aspect ratios change by up to a factor of two (log-uniform); boxes are
    clipped to `region`. The first of 200 versions whose IoU with the box is above 0.5 replaces it; if none is,
    the box stays.
    """
    return np.stack([_jitter_box(box, region, rng) for box in boxes])


def _jitter_box(box: FloatBoxes, region: FloatBoxes, rng: np.random.Generator) -> FloatBoxes:
    draws = rng.uniform(-1, 1, (JITTER_ATTEMPTS, 4))
    size = box[2:] - box[:2]
    centre = box[:2] + size * (0.5 + draws[:, :2] / 2)
    sizes = size * np.sqrt(2.0 ** np.stack([draws[:, 2] + draws[:, 3], draws[:, 2] - draws[:, 3]], axis=1))
    corners = np.concatenate([centre - sizes / 2, centre + sizes / 2], axis=1)
    moved = np.clip(np.rint(corners), np.tile(region[:2], 2), np.tile(region[2:], 2))
    good = ((moved[:, 2:] - moved[:, :2]) >= 1).all(axis=1) & (iou(box, moved.astype(np.float32)) > 0.5)
    chosen: FloatBoxes = moved[good.argmax()] if good.any() else box
    return chosen
