"""The proposers `selective-search` and `selective-search-dlib`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from sslkit_proposals.search import DlibSearch, OpenCVSearch
from sslkit_proposals.select import Order, Rules
from sslkit_proposals.stored_proposer import StoredProposer


def _one_message(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Replace the messages of both alternatives with one."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError('must be an integer number of pixels, at least 16, or "full"') from None


Side = Annotated[Annotated[int, Field(ge=16)] | Literal["full"], WrapValidator(_one_message)]
"""Short side in pixels, or "full" for full resolution."""


def _pixels(side: Side) -> int | None:
    return None if side == "full" else side


class SelectiveSearch(StoredProposer):
    """Regions from OpenCV's selective search, filtered as in ORL and UniVIP, in a memory-mapped store.

    Args:
        mode: OpenCV's preset: "fast" is the protocol's; "quality" finds several times as many regions and takes
            longer in proportion.
        working_side: Short side in pixels to which a larger image is reduced before the search; boxes are
            scaled back. "full" searches at full resolution, as the protocol does.
        max_pixels: An image with more pixels is reduced to this many before the search, whose time and memory grow
            with the number of pixels.
        min_sides: Minimum widths and heights in pixels. They are applied to the raw regions in turn,
            until at least `enough` boxes remain.
        enough: Number of boxes below which the next minimum side is tried.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap (IoU) with a box that is already selected.
        top: Maximum number of boxes per image.
        order: The order in which regions are filtered: "random" prefers small regions, as OpenCV's order does, but is
            the same each time; "small-first"; "large-first"; "stored": by left, top, right, bottom for
            searched regions, and as in the file for imported ones.
        seed: Seed of the random order.
        store: Folder of raw regions and proposals; by default `proposals` in the cache folder.
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
        seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
        store: Path | None = None,
    ) -> None:
        self.search = OpenCVSearch(_pixels(working_side), max_pixels, mode)
        self.rules = Rules(tuple(min_sides), enough, max_aspect, max_iou, top, order, seed)
        self.root = store


class DlibSelectiveSearch(StoredProposer):
    """Regions from dlib's variant of selective search, in a fraction of OpenCV's time (needs `sslkit[dlib]`).

    Args:
        working_side: Short side in pixels to which a larger image is reduced before the search; boxes are
            scaled back. "full" searches at full resolution.
        max_pixels: An image with more pixels is reduced to this many before the search, whose time and memory grow
            with the number of pixels.
        kvals: First and last scale k of the segmentation, and the number of evenly spaced scales.
        min_size: Segments with fewer pixels in the reduced image are dropped.
        max_merging_iterations: Rounds in which neighbouring segments are merged; more rounds give more regions.
        min_sides: Minimum widths and heights in pixels. They are applied to the raw regions in turn,
            until at least `enough` boxes remain.
        enough: Number of boxes below which the next minimum side is tried.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_iou: Largest overlap (IoU) with a box that is already selected.
        top: Maximum number of boxes per image.
        order: The order in which regions are filtered: "random" prefers small regions, as OpenCV's order does, but is
            the same each time; "small-first"; "large-first"; "stored": by left, top, right, bottom.
        seed: Seed of the random order.
        store: Folder of raw regions and proposals; by default `proposals` in the cache folder.
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
        seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
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
