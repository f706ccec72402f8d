"""One image to its raw regions: OpenCV's selective search or dlib's, made reproducible."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from sslkit.errors import UsageError

IntBoxes = npt.NDArray[np.int64]
"""Shape (n, 4), xyxy in whole pixels, right and bottom exclusive."""


@dataclass(frozen=True)
class Search(ABC):
    """What decides the raw regions of an image.

    Attributes:
        working_side: Short side in pixels that the image is reduced to before the search; None for none.
        max_pixels: Images of more pixels are reduced to this many; None for no limit.
    """

    working_side: int | None = None
    max_pixels: int | None = 4_000_000

    algorithm: ClassVar[str]
    rules: ClassVar[int]
    """Raised when a change here gives other regions for the same image: older stores are not used then."""

    @abstractmethod
    def regions(self, image: npt.NDArray[np.uint8]) -> IntBoxes:
        """Return the regions of an RGB image (h w 3) in any order, xyxy, repeated or not."""

    def describe(self) -> dict[str, Any]:
        """Return everything that the raw regions depend on, beside the image."""
        return {"algorithm": self.algorithm, "rules": self.rules, **asdict(self)}

    def scale(self, height: int, width: int) -> float:
        """Return the factor, at most 1, by which an image is reduced."""
        side = self.working_side / min(height, width) if self.working_side else 1.0
        area = math.sqrt(self.max_pixels / (height * width)) if self.max_pixels else 1.0
        return min(1.0, side, area)


@dataclass(frozen=True)
class OpenCVSearch(Search):
    """OpenCV's selective search.

    Attributes:
        mode: "fast" or "quality", OpenCV's presets.
    """

    mode: Literal["fast", "quality"] = "fast"

    algorithm = "selective-search"
    rules = 1

    def regions(self, image: npt.NDArray[np.uint8]) -> IntBoxes:
        """Return OpenCV's regions, in its random order."""
        import cv2

        engine = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        engine.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
        engine.switchToSelectiveSearchFast() if self.mode == "fast" else engine.switchToSelectiveSearchQuality()
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # one image a process is faster than several threads an image
        try:
            rects = np.asarray(engine.process(), np.int64).reshape(-1, 4)
        finally:
            cv2.setNumThreads(threads)
        return np.concatenate([rects[:, :2], rects[:, :2] + rects[:, 2:]], axis=1)


@dataclass(frozen=True)
class DlibSearch(Search):
    """dlib's `find_candidate_object_locations`, with its parameters and their defaults.

    Attributes:
        kvals: First and last scale of the segmentation, and how many between them.
        min_size: Segments of fewer pixels of the reduced image are left out.
        max_merging_iterations: Rounds in which neighbours are merged.
    """

    kvals: tuple[float, float, int] = (50.0, 200.0, 3)
    min_size: int = 20
    max_merging_iterations: int = 50

    algorithm = "selective-search-dlib"
    rules = 1

    def regions(self, image: npt.NDArray[np.uint8]) -> IntBoxes:
        """Return dlib's regions.

        Raises:
            UsageError: dlib is not installed.
        """
        try:
            import dlib
        except ImportError:
            raise UsageError(
                "the proposer 'selective-search-dlib' needs dlib, which is not installed: pip install 'sslkit[dlib]'"
            ) from None
        found: list[Any] = []
        dlib.find_candidate_object_locations(
            np.ascontiguousarray(image), found, self.kvals, self.min_size, self.max_merging_iterations
        )
        corners = [(rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1) for rect in found]
        return np.array(corners, np.int64).reshape(-1, 4)


def find(image: npt.NDArray[np.uint8], search: Search) -> IntBoxes:
    """Return the distinct regions of an RGB image (h w 3), sorted by left, top, right, bottom.

    OpenCV returns the same set each time, but in an order drawn from C's `rand()`, which depends on what the
    process did before. Sorting makes the result a function of the pixels alone; `select` draws its own order.
    """
    height, width = image.shape[:2]
    small = _reduced(image, search.scale(height, width))
    return _scaled(search.regions(small), small.shape[0], small.shape[1], height, width)


def _reduced(image: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[np.uint8]:
    if scale >= 1.0:
        return image
    import cv2

    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _scaled(corners: IntBoxes, small_height: int, small_width: int, height: int, width: int) -> IntBoxes:
    """Map boxes of the reduced image to distinct boxes of the original, never empty ones."""
    factor = np.array([width / small_width, height / small_height] * 2)
    boxes = np.rint(corners * factor).astype(np.int64)
    limit = np.array([width, height])
    boxes[:, :2] = np.clip(boxes[:, :2], 0, limit - 1)
    boxes[:, 2:] = np.clip(boxes[:, 2:], boxes[:, :2] + 1, limit)
    return np.unique(boxes, axis=0)
