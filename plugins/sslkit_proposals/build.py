"""Fill a store: search every image whose content has no regions yet, then filter the regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslkit.api import Progress, Source
from sslkit.errors import DataError
from sslkit_proposals.files import encode_name, hash_bytes
from sslkit_proposals.search import Search, find_regions
from sslkit_proposals.select import NOTHING, Rules, Selection, select
from sslkit_proposals.shards import ImageRegions, Shard, compact, join, load_shard, load_summary, save_shard
from sslkit_proposals.store import Share, Store
from sslkit_proposals.workers import map_ordered


class SearchedRegions:
    """All regions found with the same search options, in this source and others, indexed by image content."""

    def __init__(self, family: Path) -> None:
        self.paths = sorted(family.glob("*/raw/*.npz"))
        shards = [_searched_rows(path) for path in self.paths]
        contents = np.concatenate([np.zeros(0, np.uint64), *(content for content, _ in shards)])
        parts = [np.full(len(rows), part) for part, (_, rows) in enumerate(shards)]
        order = np.argsort(contents, kind="stable")
        self.contents = contents[order]
        self.parts = np.concatenate([np.zeros(0, np.int64), *parts])[order]
        self.rows = np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in shards)])[order]
        self.load = lru_cache(maxsize=8)(load_shard)

    def get(self, content: int) -> ImageRegions:
        """Return the regions of the image with hash `content`."""
        position = int(np.searchsorted(self.contents, np.uint64(content)))
        path, row = self.paths[self.parts[position]], int(self.rows[position])
        shard = self.load(path)
        if shard is None or int(shard.contents[row]) != content:
            raise DataError(f"{path} changed while it was read: is another build running?")
        return shard.row(row)


def _searched_rows(path: Path) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the content hashes and rows of a shard's images, except those that failed: they are searched again."""
    summary = load_summary(path)
    rows = np.array([row for row, reason in enumerate(summary.reasons) if not reason], np.int64)
    return summary.contents[rows], rows


@dataclass(frozen=True)
class Searcher:
    """A callable that reads, decodes and searches one image. An image with a known content hash is only read."""

    source: Source
    search: Search
    known: npt.NDArray[np.uint64]

    def __call__(self, index: int) -> ImageRegions:
        """Return the regions of image `index`."""
        key = hash_bytes(encode_name(self.source.key(index)))
        try:
            data = self.source.read(index)
        except (DataError, OSError) as error:
            return ImageRegions(key, 0, 0, 0, None, f"cannot be read: {error}")
        return self._search(key, hash_bytes(data), data, self.source.key(index))

    def _search(self, key: int, content: int, data: bytes, name: str) -> ImageRegions:
        from sslkit.images import decode

        position = np.searchsorted(self.known, np.uint64(content))
        if position < len(self.known) and int(self.known[position]) == content:
            return ImageRegions(key, content, 0, 0, None)
        try:
            image = decode(data, name)
        except DataError as error:
            return ImageRegions(key, content, 0, 0, None, str(error))
        height, width = image.shape[:2]
        return ImageRegions(key, content, height, width, find_regions(image, self.search))


def crashed(source: Source, index: int) -> ImageRegions:
    """Return the result for an image whose search kills its process."""
    key = source.key(index)
    reason = f"{key}: the search killed its process twice (out of memory?)"
    return ImageRegions(hash_bytes(encode_name(key)), 0, 0, 0, None, reason)


def search_share(source: Source, store: Store, share: Share, jobs: int, progress: Progress) -> None:
    """Save the raw regions of every image of a share, shard by shard. Only unknown contents are searched.

    Raises:
        DataError: No image could be read.
    """
    searched = SearchedRegions(store.family)
    job = Searcher(source, store.search, searched.contents)
    parts = share.of(store.parts)
    indices = [index for part in parts for index in store.members(part)]
    results = _with_progress(
        map_ordered(job, indices, jobs, lambda index: crashed(source, index)), len(indices), progress
    )
    failed: list[str] = []
    for part in parts:
        rows = [_complete(next(results), searched) for _ in store.members(part)]
        failed += [row.reason for row in rows if row.reason]
        _save(store, part, join(rows))
    if failed and len(failed) == len(indices):
        raise DataError(_join_failures(failed))


def _with_progress(results: Iterator[ImageRegions], total: int, progress: Progress) -> Iterator[ImageRegions]:
    progress("searching images", 0, total)
    for done, result in enumerate(results, 1):
        progress("searching images", done, total)
        yield result


def _complete(regions: ImageRegions, searched: SearchedRegions) -> ImageRegions:
    """Fill in the boxes of an image that was searched before."""
    if regions.boxes is not None or regions.reason:
        return regions
    return searched.get(regions.content)._replace(key=regions.key)


def _save(store: Store, part: int, shard: Shard) -> None:
    existing = store.load(part)
    if existing is None or not existing.same(shard):
        save_shard(store.path(part), shard)


def _join_failures(reasons: Sequence[str]) -> str:
    shown = "\n".join(f"  {reason}" for reason in reasons[:5])
    more = f"\n  ... and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return f"none of the {len(reasons)} images could be searched:\n{shown}{more}"


@dataclass(frozen=True)
class Selector:
    """A callable that filters the regions of one shard."""

    store: Store
    rules: Rules

    def __call__(self, part: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Return boxes (m, 4), and the number of boxes and the rung of each image."""
        shard = self.store.load(part)
        if shard is None:
            raise DataError(_damaged(self.store, part))
        selections = [_select(shard.row(index), self.rules) for index in range(len(shard))]
        boxes = np.concatenate([one.boxes for one in selections]).astype(np.uint32)
        counts = np.array([len(one.boxes) for one in selections], np.int64)
        return boxes, counts, np.array([one.rung for one in selections], np.uint8)


def _damaged(store: Store, part: int) -> str:
    """Return the error message for a shard that cannot be used."""
    return f"{store.path(part)} is missing or damaged: build the proposals again"


def _select(regions: ImageRegions, rules: Rules) -> Selection:
    boxes = regions.boxes if regions.boxes is not None else np.zeros((0, 4), np.int64)
    if regions.reason:
        return Selection(np.zeros((0, 4), np.int64), NOTHING)
    return select(boxes, regions.height, regions.width, rules)


def select_all(store: Store, rules: Rules, jobs: int, progress: Progress) -> None:
    """Filter all raw regions under `rules` and save the proposals, unless they exist already."""
    raw = _raw_digest(store)
    existing = store.selected(rules)
    if existing is not None and existing.name.endswith(f"-{raw}"):
        return
    parts = []
    for part in map_ordered(Selector(store, rules), store.parts, jobs if store.images > 5000 else 1, _filter_crashed):
        parts.append(part)
        progress("selecting proposals", min(len(parts) * store.members(0).stop, store.images), store.images)
    counts = np.concatenate([np.zeros(1, np.int64), *(count for _, count, _ in parts)])
    boxes = np.concatenate([np.zeros((0, 4), np.uint32), *(box for box, _, _ in parts)])
    rungs = np.concatenate([np.zeros(0, np.uint8), *(rung for _, _, rung in parts)])
    store.save_selected(rules, raw, compact(boxes.astype(np.int64)), np.cumsum(counts), rungs)


def _filter_crashed(part: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    raise DataError(f"filtering shard {part} killed its process twice (out of memory?)")


def _raw_digest(store: Store) -> str:
    """Hash the raw regions' summaries, without reading the regions."""
    total = blake2b(digest_size=6)
    for part in store.parts:
        summary = load_summary(store.path(part))
        if len(summary.contents) != len(store.members(part)):
            raise DataError(_damaged(store, part))
        for array in (summary.contents, summary.sizes, summary.origins, summary.offsets):
            total.update(array.tobytes())
        total.update(encode_name("".join(summary.reasons)))
    return total.hexdigest()
