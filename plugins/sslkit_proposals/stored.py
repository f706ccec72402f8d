"""What proposers that search once and keep the regions have in common."""

from __future__ import annotations

from pathlib import Path

from sslkit import folders
from sslkit.api import Progress, Proposals, Proposer, Source
from sslkit.errors import DataError
from sslkit_proposals.search import Search
from sslkit_proposals.select import Rules
from sslkit_proposals.store import ALL, Share, Store, fingerprint


class StoredProposer(Proposer):
    """Regions by a search, filtered as ORL and UniVIP do, in a memory-mapped store.

    Attributes:
        search: How they are found.
        rules: How they are filtered.
        root: Where raw regions and proposals are kept; None for the cache folder's `proposals`.
    """

    search: Search
    rules: Rules
    root: Path | None

    def store(self, source: Source) -> Store:
        """Return where the regions of `source` lie, or will lie."""
        root = self.root or folders.cache_dir() / "proposals"
        return Store(root.expanduser(), self.search, fingerprint(source), len(source))

    def missing(self, source: Source) -> str | None:
        """Say how many images have not been searched, and which command does it; None when all is there."""
        store = self.store(source)
        return None if store.selected(self.rules) else _missing(store)

    def build(self, source: Source, progress: Progress, jobs: int, share: Share = ALL) -> None:
        """Search and filter all images with `jobs` processes, going on where an earlier call stopped.

        Of several shares, which may be built at the same time on machines that see one store, each searches its
        own images; the one that finds all of them searched filters them.

        Raises:
            DataError: Not one image could be read.
        """
        from sslkit_proposals.build import search_share, select_all

        store = self.store(source)
        store.describe(source, {"source": source.name})
        search_share(source, store, share, jobs, progress)
        if store.searched() == store.images:
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
    others = "".join(f"\n{folder} has regions of these images by {how}" for folder, how in store.others())
    return (
        f"the region proposals of {store.images} images are not there:"
        f" {done} of {store.images} {state} in {store.folder}{others}\n"
        "make them, or go on, with: sslkit proposals build RECIPE"
    )
