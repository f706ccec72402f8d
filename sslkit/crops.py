"""Random resized crops, many at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float64]
"""Boxes of shape (..., 4): left, top, right, bottom; whole numbers where they are drawn here."""

Range = tuple[float, float]

TRIES = 10
"""Sizes drawn for one crop before it falls back to the centre, as in torchvision."""


def random_crops(
    height: int, width: int, shape: tuple[int, ...], scale: Range, ratio: Range, rng: np.random.Generator
) -> Pixels:
    """Draw crops as torchvision's RandomResizedCrop does: share of the area uniform, aspect ratio log-uniform.

    The first of ten sizes that fits the image is placed anywhere in it; where none fits, the crop is central and as
    large as `ratio` allows. The number of random numbers taken does not depend on their values.

    Returns:
        Shape (*shape, 4), whole pixels inside the image, at least one pixel high and wide.
    """
    drawn = rng.random((*shape, 2, TRIES))
    area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn[..., 0, :])
    aspect = np.exp(np.log(ratio[0]) + np.log(ratio[1] / ratio[0]) * drawn[..., 1, :])
    sizes = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=-1)))
    image = np.array([width, height], np.float64)
    fits = ((sizes > 0) & (sizes <= image)).all(axis=-1)
    size = np.take_along_axis(sizes, fits.argmax(axis=-1)[..., None, None], axis=-2)[..., 0, :]
    corner = np.floor(rng.random((*shape, 2)) * (image - size + 1))
    found = fits.any(axis=-1)[..., None]
    centre = np.array(central_crop(height, width, ratio), np.float64)
    return np.where(found, np.concatenate([corner, corner + size], axis=-1), centre)


def central_crop(height: int, width: int, ratio: Range) -> tuple[int, int, int, int]:
    """Return the largest central crop whose width / height lies in `ratio`, in whole pixels."""
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
