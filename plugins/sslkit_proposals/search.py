"""One image to its raw regions: OpenCV's selective search, made reproducible."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.int64]
"""Shape (n, 4), xyxy in whole pixels, right and bottom exclusive."""

RULES_OF_SEARCH = 1
"""Raised when a change here gives other regions for the same image: older stores are not used then."""


@dataclass(frozen=True)
class Search:
    """What decides the raw regions of an image.

    Attributes:
        mode: "fast" or "quality", OpenCV's presets.
        working_side: Short side in pixels that the image is reduced to before the search; None for none.
        max_pixels: Images of more pixels are reduced to this many; None for no limit.
    """

    mode: Literal["fast", "quality"] = "fast"
    working_side: int | None = None
    max_pixels: int | None = 4_000_000

    def describe(self) -> dict[str, Any]:
        """Return everything that the raw regions depend on, beside the image."""
        return {"algorithm": "selective-search", "rules": RULES_OF_SEARCH, **asdict(self)}

    def scale(self, height: int, width: int) -> float:
        """Return the factor, at most 1, by which an image is reduced."""
        side = self.working_side / min(height, width) if self.working_side else 1.0
        area = math.sqrt(self.max_pixels / (height * width)) if self.max_pixels else 1.0
        return min(1.0, side, area)


def find(image: npt.NDArray[np.uint8], search: Search) -> Pixels:
    """Return the distinct regions of an RGB image (h w 3), sorted by left, top, right, bottom.

    OpenCV returns the same set each time, but in an order drawn from C's `rand()`, which depends on what the
    process did before. Sorting makes the result a function of the pixels alone; `select` draws its own order.
    """
    height, width = image.shape[:2]
    small = _reduced(image, search.scale(height, width))
    rects = _regions(small, search.mode)
    return _scaled(rects, small.shape[0], small.shape[1], height, width)


def _reduced(image: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[np.uint8]:
    if scale >= 1.0:
        return image
    import cv2

    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _regions(image: npt.NDArray[np.uint8], mode: str) -> Pixels:
    """Return xywh regions in OpenCV's random order."""
    import cv2

    engine = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    engine.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    engine.switchToSelectiveSearchFast() if mode == "fast" else engine.switchToSelectiveSearchQuality()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one image a process is faster than several threads an image
    try:
        return np.asarray(engine.process(), np.int64).reshape(-1, 4)
    finally:
        cv2.setNumThreads(threads)


def _scaled(rects: Pixels, small_height: int, small_width: int, height: int, width: int) -> Pixels:
    """Map xywh rectangles of the reduced image to distinct xyxy boxes of the original, never empty ones."""
    corners = np.concatenate([rects[:, :2], rects[:, :2] + rects[:, 2:]], axis=1)
    factor = np.array([width / small_width, height / small_height] * 2)
    boxes = np.rint(corners * factor).astype(np.int64)
    limit = np.array([width, height])
    boxes[:, :2] = np.clip(boxes[:, :2], 0, limit - 1)
    boxes[:, 2:] = np.clip(boxes[:, 2:], boxes[:, :2] + 1, limit)
    return np.unique(boxes, axis=0)
