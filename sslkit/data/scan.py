"""Look at every image of a source ahead of a run, in parallel, and say which cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain

from sslkit.api import Progress, Source, no_progress
from sslkit.data.bad_images import BadImage, usable
from sslkit.errors import DataError

_CHUNK = 32
_source: Source
_min_side = 1


def scan(source: Source, min_side: int, jobs: int, progress: Progress = no_progress) -> list[BadImage]:
    """Return the images of an opened source that a run could not use, in order, with what is wrong with each.

    Args:
        source: Every image of it is read and decoded.
        min_side: A smaller image counts as bad, pixels.
        jobs: Processes. Where one dies of an image, those in hand are looked at one by one, and the image is named.
        progress: Shows how many are done.
    """
    left = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    found: list[BadImage] = []
    done = 0
    progress("checking images", 0, len(source))
    while left:
        undone = []
        for chunk, bad in _scanned(source, min_side, left, jobs):
            if bad is None:
                undone.append(chunk)
            else:
                found += bad
                done += len(chunk)
                progress("checking images", done, len(source))
        in_hand, left = undone[: 2 * jobs + 1], undone[2 * jobs + 1 :]
        for index in chain.from_iterable(in_hand):
            [(_, bad)] = _scanned(source, min_side, [range(index, index + 1)], 1)
            found += [(index, f"{source.key(index)} ends the process that decodes it")] if bad is None else bad
            done += 1
    progress("checking images", len(source), len(source))
    return sorted(found)


def _scanned(
    source: Source, min_side: int, chunks: list[range], jobs: int
) -> Iterator[tuple[range, list[BadImage] | None]]:
    """Yield each chunk with what is bad in it, or with None when a process died before it was done; in order."""
    with ProcessPoolExecutor(jobs, initializer=_start, initargs=(source, min_side)) as pool:
        waiting = [(chunk, pool.submit(_look_at, chunk)) for chunk in chunks]
        for chunk, future in waiting:
            try:
                yield chunk, future.result()
            except BrokenProcessPool:
                yield chunk, None


def _start(source: Source, min_side: int) -> None:
    global _source, _min_side
    _source, _min_side = source, min_side


def _look_at(indices: range) -> list[BadImage]:
    bad: list[BadImage] = []
    for index in indices:
        try:
            usable(_source, index, _min_side)
        except DataError as error:
            bad.append((index, str(error)))
    return bad
