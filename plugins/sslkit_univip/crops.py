"""Geometry of overlapping crops."""

from __future__ import annotations

import numpy as np

from sslkit.crops import FloatBoxes


def intersect(first: FloatBoxes, second: FloatBoxes) -> FloatBoxes:
    """Return the overlaps of pairs of boxes (..., 4); an inverted box for each pair that does not overlap."""
    return np.concatenate(
        [np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])], axis=-1
    )


def shortest_sides(boxes: FloatBoxes) -> FloatBoxes:
    """Return the shorter side of boxes (..., 4), shape (...); not positive for inverted boxes."""
    sides: FloatBoxes = (boxes[..., 2:] - boxes[..., :2]).min(axis=-1)
    return sides


def pull(box: FloatBoxes, towards: FloatBoxes, min_overlap: float) -> FloatBoxes:
    """Move `box` by whole pixels until it overlaps `towards` by `min_overlap` pixels on each axis.

    If one of the boxes is smaller than that, they overlap by as much as the smaller one allows. The box moves no
    further than needed, and stays inside any image that contains both.
    """
    needed = np.minimum(np.minimum(box[2:] - box[:2], towards[2:] - towards[:2]), np.ceil(min_overlap))
    lowest = towards[:2] + needed - (box[2:] - box[:2])
    highest = towards[2:] - needed
    corner = np.clip(box[:2], lowest, highest)
    return np.concatenate([corner, corner + box[2:] - box[:2]])
