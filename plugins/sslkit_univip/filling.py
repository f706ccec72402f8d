"""Making up and moving boxes inside a region, within constraints that give way step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sslkit.boxes import iou
from sslkit.crops import FloatBoxes

CANDIDATES = 64
"""Random boxes per round."""

JITTERED = 200
"""Shifted versions of one box before it is left as it is (ORL's number of attempts)."""


@dataclass(frozen=True)
class Constraints:
    """What a made-up box must obey.

    Attributes:
        min_side: Least width and height in pixels.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap with any other box.
    """

    min_side: float
    max_aspect: float
    max_iou: float

    def relaxed(self, level: int) -> Constraints:
        """Give way, in this order: half the side, a quarter, one pixel and any aspect ratio, any overlap."""
        if level < 3:
            return replace(self, min_side=max(1.0, self.min_side / 2**level))
        return Constraints(1.0, np.inf, self.max_iou if level == 3 else 1.0)


LEVELS = 5
"""Levels of `Constraints.relaxed`: at the last one every box inside the region will do."""


def fill(
    boxes: FloatBoxes, region: FloatBoxes, count: int, rules: Constraints, rng: np.random.Generator
) -> tuple[FloatBoxes, int]:
    """Complete `boxes` to `count` with random boxes inside `region`.

    Args:
        boxes: Shape (n, 4), kept, n <= count.
        region: Whole pixels, at least one pixel high and wide.
        count: Of boxes wanted.
        rules: What new boxes obey, against the given ones and each other.
        rng: Source of randomness; asked for at most `LEVELS` rounds of candidates.

    Returns:
        Boxes (count, 4), the given ones first, and the level of relaxation that was needed: 0 for none, at most 4.
    """
    level = 0
    for level in range(LEVELS):
        allowed = rules.relaxed(level)
        for candidate in candidates(region, allowed, rng):
            if len(boxes) == count:
                return boxes, level
            if not len(boxes) or iou(candidate, boxes.astype(np.float32)).max() <= allowed.max_iou:
                boxes = np.concatenate([boxes, candidate[None]])
        if len(boxes) == count:
            break
    missing = count - len(boxes)  # more wanted than there are candidates in a round
    return np.concatenate([boxes, np.repeat(region[None], missing, axis=0)]), level


def candidates(region: FloatBoxes, rules: Constraints, rng: np.random.Generator) -> FloatBoxes:
    """Draw boxes of whole pixels inside `region`, sides log-uniform, places uniform; return those of allowed shape."""
    room = region[2:] - region[:2]
    least = np.minimum(np.ceil(rules.min_side), room)
    drawn = rng.random((CANDIDATES, 4))
    size = np.clip(np.rint(least * (room / least) ** drawn[:, :2]), 1, room)
    corner = region[:2] + np.floor(drawn[:, 2:] * (room - size + 1))
    short = size.min(axis=1)
    good = (short >= rules.min_side) & (size.max(axis=1) <= rules.max_aspect * short)
    found: FloatBoxes = np.concatenate([corner, corner + size], axis=1)[good]
    return found


def jittered(boxes: FloatBoxes, region: FloatBoxes, rng: np.random.Generator) -> FloatBoxes:
    """Shift and reshape each box as ORL does, but never out of `region`.

    Centres move by up to half a side, areas and aspect ratios change by up to a factor of two (log-uniform), and what
    sticks out of `region` is cut off. The first of 200 whose IoU with the box is above 0.5 replaces it, if any is.
    """
    return np.stack([_jittered(box, region, rng) for box in boxes])


def _jittered(box: FloatBoxes, region: FloatBoxes, rng: np.random.Generator) -> FloatBoxes:
    drawn = rng.uniform(-1, 1, (JITTERED, 4))
    size = box[2:] - box[:2]
    centre = box[:2] + size * (0.5 + drawn[:, :2] / 2)
    grown = size * np.sqrt(2.0 ** np.stack([drawn[:, 2] + drawn[:, 3], drawn[:, 2] - drawn[:, 3]], axis=1))
    corners = np.concatenate([centre - grown / 2, centre + grown / 2], axis=1)
    moved = np.clip(np.rint(corners), np.tile(region[:2], 2), np.tile(region[2:], 2))
    good = ((moved[:, 2:] - moved[:, :2]) >= 1).all(axis=1) & (iou(box, moved.astype(np.float32)) > 0.5)
    chosen: FloatBoxes = moved[good.argmax()] if good.any() else box
    return chosen
