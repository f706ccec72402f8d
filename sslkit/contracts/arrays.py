"""Faults of boxes, as words that say what is wrong with the actual value."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

ROUNDING = 1e-3
"""Pixels by which rounding may carry a view across the edge of its image."""
TOLERANCE = 1.0
"""Pixels by which the box of a proposal or an object may reach outside its image, which is then clipped."""
_LONGEST = 120
"""Characters of a value that a message shows."""
FORM = "boxes are left, top, right, bottom"


def named(value: Any) -> str:
    """Name a value by its type: "None", "a list", "an array of int64"."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return f"an array of {value.dtype}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shown(value: Any) -> str:
    """Return a value as Python writes it, cut for a message; its type where that fails, as for huge numbers."""
    try:
        text = repr(value)
    except Exception:  # of any kind: it is the component's own
        return named(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def is_index(value: Any) -> bool:
    """Return whether a value is an integer of any kind that fits 64 bits, and no bool."""
    if isinstance(value, (bool, np.ndarray)):
        return False
    try:
        return -(2**63) <= operator.index(value) < 2**63
    except (TypeError, ValueError, RuntimeError):  # tensors have the method, and fail
        return False


def is_finite(value: Real | np.bool_) -> bool:
    """Return whether a number is finite as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def array_fault(boxes: Any, count: int | None = None) -> str | None:
    """Return what is wrong with the type, dtype or shape of boxes; None if nothing is.

    Args:
        boxes: Boxes of shape (n, 4), floats.
        count: The number of boxes that there must be; None for any.
    """
    shape = "(n, 4)" if count is None else f"({count}, 4)"
    if not isinstance(boxes, np.ndarray) or isinstance(boxes, np.ma.MaskedArray) or boxes.dtype.kind != "f":
        return f"{named(boxes)}: write a NumPy array of float32, shape {shape}"
    if boxes.ndim != 2 or boxes.shape[1] != 4 or (count is not None and len(boxes) != count):
        return f"an array of shape {boxes.shape}: write shape {shape}"
    return None


def box_fault(box: tuple[float, float, float, float], height: float, width: float) -> str | None:
    """Return what is wrong with the values of one box of an image; None if nothing is."""
    left, top, right, bottom = box
    if (
        -ROUNDING <= left < right <= width + ROUNDING  # also false where one of them is NaN
        and -ROUNDING <= top < bottom <= height + ROUNDING
    ):
        return None
    values = f"[{', '.join(f'{value:g}' for value in box)}]"
    if not np.isfinite(box).all():
        return f"{values}, which is not finite"
    if right <= left or bottom <= top:
        return f"{values}, which is {'empty' if right >= left and bottom >= top else 'inverted'}: {FORM}"
    return f"{values}, which reaches outside the image of {width:g} x {height:g} pixels"
