"""The proposer `selective-search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sslkit import folders
from sslkit.api import Progress, Proposals, Proposer, Source
from sslkit.errors import DataError
from sslkit_proposals.search import Search
from sslkit_proposals.select import Order, Rules
from sslkit_proposals.store import Store, fingerprint


class SelectiveSearch(Proposer):
    """Regions by selective search (OpenCV's), filtered as ORL and UniVIP do, in a memory-mapped store.

    Args:
        mode: OpenCV's preset: "fast" is the protocol's, "quality" finds several times as many regions and
            takes that much longer.
        working_side: Short side in pixels to which a larger image is reduced before the search; boxes are
            scaled back. Without it the search runs at full resolution, as in the protocol.
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

    def __init__(
        self,
        *,
        mode: Literal["fast", "quality"] = "fast",
        working_side: Annotated[int, Field(ge=16)] | None = None,
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
        self.search = Search(mode, working_side, max_pixels)
        self.rules = Rules(tuple(min_sides), enough, max_aspect, max_iou, top, order, seed)
        self.root = store

    def store(self, source: Source) -> Store:
        """Return where the regions of `source` lie, or will lie."""
        root = self.root or folders.cache_dir() / "proposals"
        return Store(root.expanduser(), self.search, fingerprint(source), len(source))

    def missing(self, source: Source) -> str | None:
        """Say how many images have not been searched, and which command does it; None when all is there."""
        store = self.store(source)
        return None if store.selected(self.rules) else _missing(store)

    def build(self, source: Source, progress: Progress, jobs: int) -> None:
        """Search and filter all images with `jobs` processes, going on where an earlier call stopped.

        Raises:
            DataError: Not one image could be read.
        """
        from sslkit_proposals.build import search_all, select_all

        store = self.store(source)
        store.describe(source, {"source": source.name})
        search_all(source, store, jobs, progress)
        select_all(store, self.rules, jobs, progress)

    def open(self, source: Source) -> Proposals:
        """Map the proposals of `source`. A few of its images are read, to know that it is the same.

        Raises:
            DataError: They have not been built.
        """
        store = self.store(source)
        proposals = store.open(self.rules)
        if proposals is None:
            raise DataError(_missing(store))
        return proposals


def _missing(store: Store) -> str:
    searched = store.searched()
    state = "filtered under these options" if searched == store.images else "searched"
    done = 0 if searched == store.images else searched
    return (
        f"the region proposals of {store.images} images are not there:"
        f" {done} of {store.images} {state} in {store.folder}\n"
        "make them, or go on, with: sslkit proposals build RECIPE"
    )
