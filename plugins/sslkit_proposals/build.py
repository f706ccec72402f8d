"""Fill a store: search every image whose content is not known yet, then filter."""

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
from sslkit_proposals import shards
from sslkit_proposals.files import encoded, number
from sslkit_proposals.search import Search, find
from sslkit_proposals.select import NOTHING, Rules, Selected, select
from sslkit_proposals.shards import Found, Shard, join
from sslkit_proposals.store import Share, Store
from sslkit_proposals.workers import ordered


class Known:
    """Everything that was searched with the same options, in this source and others, found by content."""

    def __init__(self, family: Path) -> None:
        self.paths = sorted(family.glob("*/raw/*.npz"))
        found = [_good(path) for path in self.paths]
        contents = np.concatenate([np.zeros(0, np.uint64), *(content for content, _ in found)])
        places = [np.full(len(rows), part) for part, (_, rows) in enumerate(found)]
        order = np.argsort(contents, kind="stable")
        self.contents = contents[order]
        self.part = np.concatenate([np.zeros(0, np.int64), *places])[order]
        self.rows = np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in found)])[order]
        self.load = lru_cache(maxsize=8)(shards.load)

    def get(self, content: int) -> Found:
        """Return the image that was stored under `content`."""
        at = int(np.searchsorted(self.contents, np.uint64(content)))
        shard = self.load(self.paths[self.part[at]])
        if shard is None or int(shard.contents[self.rows[at]]) != content:
            raise DataError(f"{self.paths[self.part[at]]} changed while it was read: is another build at work?")
        return shard.row(int(self.rows[at]))


def _good(path: Path) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the contents in a shard, and their rows, leaving out those that failed: they are tried again."""
    notes = shards.notes(path)
    rows = np.array([row for row, reason in enumerate(notes.reasons) if not reason], np.int64)
    return notes.contents[rows], rows


@dataclass(frozen=True)
class Searcher:
    """Reads, decodes and searches one image; what is known already is only read."""

    source: Source
    search: Search
    known: npt.NDArray[np.uint64]

    def __call__(self, index: int) -> Found:
        """Return what was found in image `index`."""
        key = number(encoded(self.source.key(index)))
        try:
            data = self.source.read(index)
        except (DataError, OSError) as error:
            return Found(key, 0, 0, 0, None, f"cannot be read: {error}")
        return self._searched(key, number(data), data, self.source.key(index))

    def _searched(self, key: int, content: int, data: bytes, name: str) -> Found:
        from sslkit.images import decode

        at = np.searchsorted(self.known, np.uint64(content))
        if at < len(self.known) and int(self.known[at]) == content:
            return Found(key, content, 0, 0, None)
        try:
            image = decode(data, name)
        except DataError as error:
            return Found(key, content, 0, 0, None, str(error))
        height, width = image.shape[:2]
        return Found(key, content, height, width, find(image, self.search))


def died(source: Source, index: int) -> Found:
    """Return the result for an image that kills its process."""
    key = source.key(index)
    reason = f"{key}: the search killed its process twice (out of memory?)"
    return Found(number(encoded(key)), 0, 0, 0, None, reason)


def search_share(source: Source, store: Store, share: Share, jobs: int, progress: Progress) -> None:
    """Save the raw regions of every image of a share, shard by shard; only unknown contents are searched.

    Raises:
        DataError: Not one image could be read.
    """
    known = Known(store.family)
    job = Searcher(source, store.search, known.contents)
    parts = share.of(store.parts)
    mine = [index for part in parts for index in store.members(part)]
    results = _shown(ordered(job, mine, jobs, lambda index: died(source, index)), len(mine), progress)
    failed: list[str] = []
    for part in parts:
        rows = [_complete(next(results), known) for _ in store.members(part)]
        failed += [row.reason for row in rows if row.reason]
        _save(store, part, join(rows))
    if failed and len(failed) == len(mine):
        raise DataError(_all_failed(failed))


def _shown(results: Iterator[Found], total: int, progress: Progress) -> Iterator[Found]:
    progress("searching photos", 0, total)
    for done, result in enumerate(results, 1):
        progress("searching photos", done, total)
        yield result


def _complete(found: Found, known: Known) -> Found:
    if found.boxes is not None or found.reason:
        return found
    return known.get(found.content)._replace(key=found.key)


def _save(store: Store, part: int, shard: Shard) -> None:
    stored = store.load(part)
    if stored is None or not stored.same(shard):
        shards.save(store.path(part), shard)


def _all_failed(reasons: Sequence[str]) -> str:
    shown = "\n".join(f"  {reason}" for reason in reasons[:5])
    more = f"\n  ... and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return f"none of the {len(reasons)} images could be searched:\n{shown}{more}"


@dataclass(frozen=True)
class Selector:
    """Filters the images of one shard."""

    store: Store
    rules: Rules

    def __call__(self, part: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Return boxes (m, 4), how many each image has, and how they came about."""
        shard = self.store.load(part)
        if shard is None:
            raise DataError(damaged(self.store, part))
        chosen = [_chosen(shard.row(index), self.rules) for index in range(len(shard))]
        boxes = np.concatenate([one.boxes for one in chosen]).astype(np.uint32)
        counts = np.array([len(one.boxes) for one in chosen], np.int64)
        return boxes, counts, np.array([one.rung for one in chosen], np.uint8)


def damaged(store: Store, part: int) -> str:
    """Say that a shard cannot be used."""
    return f"{store.path(part)} is missing or damaged: build the proposals again"


def _chosen(found: Found, rules: Rules) -> Selected:
    boxes = found.boxes if found.boxes is not None else np.zeros((0, 4), np.int64)
    if found.reason:
        return Selected(np.zeros((0, 4), np.int64), NOTHING)
    return select(boxes, found.height, found.width, rules)


def select_all(store: Store, rules: Rules, jobs: int, progress: Progress) -> None:
    """Filter all raw regions under `rules` and save the proposals, unless that was done already."""
    raw = _raw_digest(store)
    done = store.selected(rules)
    if done is not None and done.name.endswith(f"-{raw}"):
        return
    parts = []
    for part in ordered(Selector(store, rules), store.parts, jobs if store.images > 5000 else 1, _no_shard):
        parts.append(part)
        progress("selecting proposals", min(len(parts) * store.members(0).stop, store.images), store.images)
    counts = np.concatenate([np.zeros(1, np.int64), *(count for _, count, _ in parts)])
    boxes = np.concatenate([np.zeros((0, 4), np.uint32), *(box for box, _, _ in parts)])
    rungs = np.concatenate([np.zeros(0, np.uint8), *(rung for _, _, rung in parts)])
    store.save_selected(rules, raw, shards.compact(boxes.astype(np.int64)), np.cumsum(counts), rungs)


def _no_shard(part: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    raise DataError(f"filtering shard {part} killed its process twice (out of memory?)")


def _raw_digest(store: Store) -> str:
    """Name the raw regions, without reading them."""
    total = blake2b(digest_size=6)
    for part in store.parts:
        notes = shards.notes(store.path(part))
        if len(notes.contents) != len(store.members(part)):
            raise DataError(damaged(store, part))
        for array in (notes.contents, notes.sizes, notes.origins, notes.offsets):
            total.update(array.tobytes())
        total.update(encoded("".join(notes.reasons)))
    return total.hexdigest()
