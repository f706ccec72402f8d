"""Draw random resized crops, many at once."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatBoxes = npt.NDArray[np.float64]
"""Boxes of shape (..., 4): left, top, right, bottom. Those drawn here are whole numbers."""

Range = tuple[float, float]
"""The lowest and the highest value."""

TRIES = 10
"""Sizes drawn for each crop before it falls back to a central crop, as in torchvision."""


def random_crops(
    height: int, width: int, shape: tuple[int, ...], scale: Range, ratio: Range, rng: np.random.Generator
) -> FloatBoxes:
    """Draw crops as torchvision's RandomResizedCrop does: a uniform share of the area, a log-uniform aspect ratio.

    The first of ten sizes that fits the image is placed at random. If none fits, the crop is central and as large as
    `ratio` allows. The number of random draws does not depend on their values.

    Returns:
        Shape (*shape, 4), whole pixels inside the image, at least one pixel high and wide.
    """
    count = math.prod(shape)
    sizes = rng.random((count, 2, TRIES)).tolist()
    corners = rng.random((count, 2)).tolist()
    boxes = [_box(height, width, scale, ratio, *size, *corner) for size, corner in zip(sizes, corners, strict=True)]
    return np.array(boxes, np.float64).reshape(*shape, 4)


def _box(
    height: int, width: int, scale: Range, ratio: Range, areas: list[float], aspects: list[float], x: float, y: float
) -> tuple[int, int, int, int]:
    """Place the first size that fits, at (x, y) in [0, 1) of its possible positions; plain Python is fastest."""
    for area, aspect in zip(areas, aspects, strict=True):
        pixels = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        stretch = ratio[0] * (ratio[1] / ratio[0]) ** aspect
        w, h = round(math.sqrt(pixels * stretch)), round(math.sqrt(pixels / stretch))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    return central_crop(height, width, ratio)


def central_crop(height: int, width: int, ratio: Range) -> tuple[int, int, int, int]:
    """Return the largest central crop whose width / height lies in `ratio`, in whole pixels."""
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
