"""The proposers `selective-search` and `selective-search-dlib`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from sslkit_proposals.search import DlibSearch, OpenCVSearch
from sslkit_proposals.select import Order, Rules
from sslkit_proposals.stored_proposer import StoredProposer


def _told_once(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Say in one message what both kinds of value would be."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError('must be whole pixels, at least 16, or "full"') from None


Side = Annotated[Annotated[int, Field(ge=16)] | Literal["full"], WrapValidator(_told_once)]
"""Short side in pixels, or "full" for an image as it is."""


def _pixels(side: Side) -> int | None:
    return None if side == "full" else side


class SelectiveSearch(StoredProposer):
    """Regions by selective search (OpenCV's), filtered as ORL and UniVIP do, in a memory-mapped store.

    Args:
        mode: OpenCV's preset: "fast" is the protocol's, "quality" finds several times as many regions and
            takes that much longer.
        working_side: Short side in pixels to which a larger image is reduced before the search; boxes are
            scaled back. "full" searches at full resolution, as the protocol does.
        max_pixels: An image of more pixels is reduced to this many before the search, which takes time and
            memory in proportion.
        min_sides: Minimum width and height in pixels: the first is applied to the raw regions and, where
            fewer than `enough` boxes survive, the next.
        enough: How many boxes make the next minimum side unnecessary.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap with a box that was kept before.
        top: How many boxes are kept at most.
        order: The order in which regions are filtered: "random" prefers small regions, as OpenCV's does,
            but is the same each time; "small-first"; "large-first"; "stored": by left, top, right, bottom for
            searched regions, and as in the file for imported ones.
        seed: Of the random order.
        store: Where raw regions and proposals are kept; the cache folder's `proposals` by default.
    """

    name = "selective-search"
    is_default = True
    search: OpenCVSearch

    def __init__(
        self,
        *,
        mode: Literal["fast", "quality"] = "fast",
        working_side: Side = 320,
        max_pixels: Annotated[int, Field(ge=10_000)] | None = 4_000_000,
        min_sides: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (96, 64),
        enough: Annotated[int, Field(ge=1)] = 4,
        max_aspect: Annotated[float, Field(ge=1)] = 3.0,
        max_iou: Annotated[float, Field(ge=0, le=1)] = 0.5,
        top: Annotated[int, Field(ge=1)] | None = 100,
        order: Order = "random",
        seed: Annotated[int, Field(ge=0)] = 0,
        store: Path | None = None,
    ) -> None:
        self.search = OpenCVSearch(_pixels(working_side), max_pixels, mode)
        self.rules = Rules(tuple(min_sides), enough, max_aspect, max_iou, top, order, seed)
        self.root = store


class DlibSelectiveSearch(StoredProposer):
    """Regions by dlib's kin of selective search, a fraction of OpenCV's time (an extra: `sslkit[dlib]`); same filter.

    Args:
        working_side: Short side in pixels to which a larger image is reduced before the search; boxes are
            scaled back. "full" searches at full resolution.
        max_pixels: An image of more pixels is reduced to this many before the search, which takes time and
            memory in proportion.
        kvals: First and last scale k of the segmentation, and how many, evenly spaced, are used.
        min_size: Segments of fewer pixels of the reduced image are left out.
        max_merging_iterations: Rounds in which neighbouring segments are merged; more give more regions.
        min_sides: Minimum width and height in pixels: the first is applied to the raw regions and, where
            fewer than `enough` boxes survive, the next.
        enough: How many boxes make the next minimum side unnecessary.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap with a box that was kept before.
        top: How many boxes are kept at most.
        order: The order in which regions are filtered: "random" prefers small regions, as OpenCV's does,
            but is the same each time; "small-first"; "large-first"; "stored": by left, top, right, bottom.
        seed: Of the random order.
        store: Where raw regions and proposals are kept; the cache folder's `proposals` by default.
    """

    name = "selective-search-dlib"

    def __init__(
        self,
        *,
        working_side: Side = 240,
        max_pixels: Annotated[int, Field(ge=10_000)] | None = 4_000_000,
        kvals: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[int, Field(ge=1)]] = (
            50.0,
            200.0,
            3,
        ),
        min_size: Annotated[int, Field(ge=1)] = 20,
        max_merging_iterations: Annotated[int, Field(ge=0)] = 50,
        min_sides: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (96, 64),
        enough: Annotated[int, Field(ge=1)] = 4,
        max_aspect: Annotated[float, Field(ge=1)] = 3.0,
        max_iou: Annotated[float, Field(ge=0, le=1)] = 0.5,
        top: Annotated[int, Field(ge=1)] | None = 100,
        order: Order = "random",
        seed: Annotated[int, Field(ge=0)] = 0,
        store: Path | None = None,
    ) -> None:
        self.search = DlibSearch(
            _pixels(working_side),
            max_pixels,
            (float(kvals[0]), float(kvals[1]), kvals[2]),
            min_size,
            max_merging_iterations,
        )
        self.rules = Rules(tuple(min_sides), enough, max_aspect, max_iou, top, order, seed)
        self.root = store
