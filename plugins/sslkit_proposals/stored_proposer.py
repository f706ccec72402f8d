"""The base class of proposers that search once and store the regions."""

from __future__ import annotations

from pathlib import Path

from sslkit import folders
from sslkit.api import Progress, Proposals, Proposer, Source
from sslkit.errors import DataError
from sslkit_proposals.search import Search
from sslkit_proposals.select import Rules
from sslkit_proposals.store import ALL_SHARDS, Share, Store, fingerprint


class StoredProposer(Proposer):
    """A proposer that stores the regions of a search and filters them as ORL and UniVIP do.

    Attributes:
        search: The search and its options.
        rules: The rules of the filter.
        root: Folder of the store; None for `proposals` in the cache folder.
    """

    search: Search
    rules: Rules
    root: Path | None

    def store(self, source: Source) -> Store:
        """Return the store of `source`, which may be empty."""
        root = self.root or folders.cache_dir() / "proposals"
        return Store(root.expanduser(), self.search, fingerprint(source), len(source))

    def missing(self, source: Source) -> str | None:
        """Return a message with the progress so far and the build command; None if the proposals are complete."""
        store = self.store(source)
        return None if store.selected(self.rules) else _missing_message(store)

    def build(self, source: Source, progress: Progress, jobs: int, share: Share = ALL_SHARDS) -> None:
        """Search and filter all images with `jobs` processes. An interrupted build is resumed.

        Shares may be built in parallel by machines that use the same store. Each build searches its own images; the
        build that completes the search filters all regions.

        Raises:
            DataError: No image could be read.
        """
        from sslkit_proposals.build import search_share, select_all

        store = self.store(source)
        store.describe(source, {"source": source.name})
        search_share(source, store, share, jobs, progress)
        if store.searched() == store.images:
            select_all(store, self.rules, jobs, progress)

    def open(self, source: Source) -> Proposals:
        """Map the proposals of `source`. Reads a few images to verify that the source is the same.

        Raises:
            DataError: The proposals have not been built.
        """
        store = self.store(source)
        proposals = store.open(self.rules)
        if proposals is None:
            raise DataError(_missing_message(store))
        return proposals


def _missing_message(store: Store) -> str:
    searched = store.searched()
    state = "filtered under these options" if searched == store.images else "searched"
    done = 0 if searched == store.images else searched
    others = "".join(f"\n{folder} has regions of these images with {options}" for folder, options in store.others())
    return (
        f"the region proposals of {store.images} images are missing:"
        f" {done} of {store.images} {state} in {store.folder}{others}\n"
        "to build them or resume, run: sslkit proposals build RECIPE"
    )
