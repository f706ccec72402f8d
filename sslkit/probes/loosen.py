"""Shift and scale the boxes of objects at random, the same way every time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sslkit.boxes import Boxes
from sslkit.planning.recipe import LoosenTable
from sslkit.seeds import uniforms


def loosen(boxes: Boxes, places: npt.NDArray[np.int64], table: LoosenTable, seed: int, key: str) -> Boxes:
    """Return the boxes of some objects of one image, each shifted and scaled.

    The centre moves by up to `shift` of the box's own width and height, and both sides are multiplied by one factor
    from `scale`; all three numbers are uniform. They are functions of the seed, the image's key and the object's place
    in the image alone.

    Args:
        boxes: Shape (n, 4), xyxy pixels.
        places: Shape (n,): the place of each object among all objects of the image.
        table: Ranges of shift and scale.
        seed: The recipe's seed.
        key: Key of the image.

    Returns:
        Shape (n, 4), xyxy pixels. Boxes may extend beyond the image.
    """
    draws = [uniforms(3, seed, "loosen", key, place) for place in places.tolist()]
    numbers = np.array(draws, np.float64).reshape(-1, 3)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:].astype(np.float64)) / 2 + table.shift * (2 * numbers[:, :2] - 1) * sides
    low, high = table.scale
    halves = sides * (low + (high - low) * numbers[:, 2:]) / 2
    return np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
