"""Search an image for raw regions, reproducibly: OpenCV's selective search or dlib's."""

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
    """A search for raw regions, with the options that its result depends on.

    Attributes:
        working_side: Short side in pixels to which the image is reduced before the search; None for full resolution.
        max_pixels: Images with more pixels are reduced to this many; None for no limit.
    """

    working_side: int | None = None
    max_pixels: int | None = 4_000_000

    algorithm: ClassVar[str]
    rules: ClassVar[int]
    """Version of the algorithm. Increase it when the same image gets other regions; older stores are then ignored."""

    @abstractmethod
    def regions(self, image: npt.NDArray[np.uint8]) -> IntBoxes:
        """Return the regions of an RGB image (h w 3), xyxy, in any order, possibly with duplicates."""

    def describe(self) -> dict[str, Any]:
        """Return everything that the raw regions depend on, apart from the image."""
        return {"algorithm": self.algorithm, "rules": self.rules, **asdict(self)}

    def scale(self, height: int, width: int) -> float:
        """Return the factor, at most 1, by which an image is scaled before the search."""
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
        cv2.setNumThreads(1)  # one image per process is faster than several threads per image
        try:
            rects = np.asarray(engine.process(), np.int64).reshape(-1, 4)
        finally:
            cv2.setNumThreads(threads)
        return np.concatenate([rects[:, :2], rects[:, :2] + rects[:, 2:]], axis=1)


@dataclass(frozen=True)
class DlibSearch(Search):
    """dlib's `find_candidate_object_locations`, with its parameters and their defaults.

    Attributes:
        kvals: First and last scale of the segmentation, and the number of scales.
        min_size: Segments with fewer pixels in the reduced image are dropped.
        max_merging_iterations: Number of rounds in which neighbours are merged.
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
        rectangles: list[Any] = []
        dlib.find_candidate_object_locations(
            np.ascontiguousarray(image), rectangles, self.kvals, self.min_size, self.max_merging_iterations
        )
        corners = [(rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1) for rect in rectangles]
        return np.array(corners, np.int64).reshape(-1, 4)


def find_regions(image: npt.NDArray[np.uint8], search: Search) -> IntBoxes:
    """Return the distinct regions of an RGB image (h w 3), sorted by left, top, right, bottom.

    OpenCV returns the same set each time, but in an order drawn from C's `rand()`, which depends on the history of the
    process. Sorting makes the result a function of the pixels alone; `select` draws its own order.
    """
    height, width = image.shape[:2]
    small = _reduce(image, search.scale(height, width))
    return _scale_back(search.regions(small), small.shape[0], small.shape[1], height, width)


def _reduce(image: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[np.uint8]:
    if scale >= 1.0:
        return image
    import cv2

    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _scale_back(corners: IntBoxes, small_height: int, small_width: int, height: int, width: int) -> IntBoxes:
    """Map boxes of the reduced image to distinct, non-empty boxes of the original."""
    factor = np.array([width / small_width, height / small_height] * 2)
    boxes = np.rint(corners * factor).astype(np.int64)
    limit = np.array([width, height])
    boxes[:, :2] = np.clip(boxes[:, :2], 0, limit - 1)
    boxes[:, 2:] = np.clip(boxes[:, 2:], boxes[:, :2] + 1, limit)
    return np.unique(boxes, axis=0)
