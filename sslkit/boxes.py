"""Boxes: float32 arrays of shape (n, 4), xyxy pixels of the original image, right and bottom exclusive.

Other formats are converted when they are read, and only by the functions here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float32]
"""Shape (n, 4): left, top, right, bottom."""


def empty() -> Boxes:
    """Return an array of no boxes, shape (0, 4)."""
    return np.zeros((0, 4), np.float32)


def from_xywh(boxes: npt.ArrayLike) -> Boxes:
    """Convert (left, top, width, height) to xyxy; a single flat box of shape (4,) becomes (1, 4)."""
    array = np.asarray(boxes, np.float32).reshape(-1, 4)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)


def to_xywh(boxes: Boxes) -> Boxes:
    """Convert xyxy to (left, top, width, height)."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def sides(boxes: Boxes) -> Boxes:
    """Return widths and heights, shape (n, 2)."""
    return boxes[:, 2:] - boxes[:, :2]


def areas(boxes: Boxes) -> npt.NDArray[np.float32]:
    """Return areas in square pixels, shape (n,); 0 for an inverted box."""
    size = np.clip(sides(boxes), 0, None)
    return np.asarray(size[:, 0] * size[:, 1], np.float32)


def intersection(box: npt.ArrayLike, boxes: Boxes) -> Boxes:
    """Intersect one box with each of `boxes`; shape (n, 4), inverted where they do not overlap."""
    box = np.asarray(box, np.float32)
    return np.concatenate([np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])], axis=1)


def iou(box: npt.ArrayLike, boxes: Boxes) -> npt.NDArray[np.float32]:
    """Return the intersection over union of one box with each of `boxes`, shape (n,); 0 where both are empty."""
    box = np.asarray(box, np.float32).reshape(1, 4)
    shared = areas(intersection(box[0], boxes))
    union = areas(box) + areas(boxes) - shared
    ratio: npt.NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def inside(boxes: Boxes, region: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return whether each box lies entirely inside `region`, edges included; shape (n,)."""
    region = np.asarray(region, np.float32)
    fits = np.concatenate([boxes[:, :2] >= region[:2], boxes[:, 2:] <= region[2:]], axis=1)
    return np.asarray(fits.all(axis=1), np.bool_)


def within(boxes: Boxes, height: float, width: float) -> Boxes:
    """Clip boxes to an image, and drop those that are then less than a pixel wide or high, or not finite."""
    clipped = clip(boxes, height, width)
    return clipped[(clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)]


def clip(boxes: Boxes, height: float, width: float) -> Boxes:
    """Clip boxes to an image of `height` x `width` pixels."""
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, 0, limit).astype(np.float32)
