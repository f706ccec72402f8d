"""Augment views one by one on bytes, in the process that cropped them: the executor for CPUs.

Every operation rounds to whole levels, as Pillow's and torchvision's do on bytes. OpenCV does the work, so limit it to
one thread where several processes share a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sslkit.data.augment.parameters import GRAY, IDENTITY, JITTER, ORDER, PARAMETERS, kernel, kernel_radius
from sslkit.planning.recipe import View

Pixels = npt.NDArray[np.uint8]
"""One view, shape (h, w, 3), contiguous; edited in place."""

_NEGLIGIBLE = 3.5
"""In sigmas: both tails of a Gaussian beyond it have a weight of 0.05 %, an eighth of a level at most."""
_COLUMN = {name: place for place, name in enumerate(PARAMETERS)}
_ORDER = slice(_COLUMN[ORDER[0]], _COLUMN[ORDER[-1]] + 1)


def apply(pixels: Pixels, params: Sequence[float], view: View) -> None:
    """Augment one view in place; `on_tensors.normalise` normalises later.

    Args:
        pixels: Shape (h, w, 3), contiguous.
        params: Thirteen numbers, as `parameters.draw` returns them.
        view: Supplies the solarize threshold.
    """
    if params[_COLUMN["flip"]]:
        cv2.flip(pixels, 1, dst=pixels)
    if params[_COLUMN["jitter"]]:
        for number in params[_ORDER]:
            name = JITTER[int(number)]
            value = params[_COLUMN[name]]
            if value != IDENTITY[name]:
                _JITTER[name](pixels, value)
    if params[_COLUMN["grayscale"]]:
        cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=pixels)
    if sigma := params[_COLUMN["blur"]]:
        _blur(pixels, sigma)
    if params[_COLUMN["solarize"]]:
        cv2.LUT(pixels, _solarized(view.solarize_threshold), dst=pixels)


def _brightness(pixels: Pixels, factor: float) -> None:
    cv2.convertScaleAbs(pixels, dst=pixels, alpha=factor)


def _contrast(pixels: Pixels, factor: float) -> None:
    red, green, blue, _ = cv2.mean(pixels)
    mean = GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue
    cv2.addWeighted(pixels, factor, pixels, 0.0, (1 - factor) * mean, dst=pixels)


def _saturation(pixels: Pixels, factor: float) -> None:
    mixed = factor * np.eye(3) + (1 - factor) * np.array(GRAY)
    cv2.transform(pixels, mixed.astype(np.float32), dst=pixels)


def _hue(pixels: Pixels, shift: float) -> None:
    """Shift hues through HSV in float32, which leaves value and saturation unchanged."""
    hsv = cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2HSV)
    height, width = pixels.shape[:2]
    rows = hsv.reshape(height, 3 * width)
    np.add(rows, _hue_row(width, 360 * (shift % 1)), out=rows)
    shifted = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)
    cv2.convertScaleAbs(shifted, dst=pixels)


def _hue_row(width: int, degrees: float) -> npt.NDArray[np.float32]:
    """Return the shift of a row of (hue, saturation, value), flat: adding a flat row is several times faster."""
    row = np.zeros((width, 3), np.float32)
    row[:, 0] = degrees
    return row.reshape(-1)


def _blur(pixels: Pixels, sigma: float) -> None:
    taps = kernel(sigma, kernel_radius(pixels.shape[1]), _NEGLIGIBLE)
    if len(taps) > 1:
        weights = np.array([*taps[:0:-1], *taps], np.float32)
        weights /= weights.sum()
        # The output is float: for bytes, OpenCV would round the kernel itself to 1/256.
        blurred = cv2.sepFilter2D(pixels, cv2.CV_32F, weights, weights, borderType=cv2.BORDER_REFLECT_101)
        cv2.convertScaleAbs(blurred, dst=pixels)


@lru_cache(maxsize=16)
def _solarized(threshold: float) -> Pixels:
    levels = np.arange(256)
    return np.where(levels / 255 >= threshold, 255 - levels, levels).astype(np.uint8)


_JITTER: dict[str, Callable[[Any, float], None]] = {
    "brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue,
}  # fmt: skip
