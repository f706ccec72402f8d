"""How pairs of crops overlap."""

from __future__ import annotations

import numpy as np

from sslkit.crops import FloatBoxes


def overlaps(first: FloatBoxes, second: FloatBoxes) -> FloatBoxes:
    """Return what pairs of boxes (..., 4) share; inverted where they do not meet."""
    return np.concatenate(
        [np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])], axis=-1
    )


def shortest_sides(boxes: FloatBoxes) -> FloatBoxes:
    """Return the shorter side of boxes (..., 4), shape (...); not positive for inverted ones."""
    sides: FloatBoxes = (boxes[..., 2:] - boxes[..., :2]).min(axis=-1)
    return sides


def pulled(box: FloatBoxes, towards: FloatBoxes, least: float) -> FloatBoxes:
    """Move `box` by whole pixels, no further than needed, until it shares `least` pixels with `towards` on each axis.

    Or as much as the smaller of the two allows. It stays inside any image that holds both.
    """
    least_shared = np.minimum(np.minimum(box[2:] - box[:2], towards[2:] - towards[:2]), np.ceil(least))
    lowest = towards[:2] + least_shared - (box[2:] - box[:2])
    highest = towards[2:] - least_shared
    corner = np.clip(box[:2], lowest, highest)
    return np.concatenate([corner, corner + box[2:] - box[:2]])
