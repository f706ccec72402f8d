"""Check every image of a source before a run, in parallel, and list those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain

from sslkit.api import Progress, Source, no_progress
from sslkit.data.bad_images import BadImage, read_usable
from sslkit.errors import DataError

_CHUNK = 32
_source: Source
_min_side = 1


def scan(source: Source, min_side: int, jobs: int, progress: Progress = no_progress) -> list[BadImage]:
    """Return the images of an opened source that a run could not use, in order, with the reasons.

    Args:
        source: The source of the images to read and decode.
        min_side: Images with a shorter side, in pixels, count as bad.
        jobs: Number of processes. When an image crashes one, the unfinished images are checked one by one to name it.
        progress: Shows how many images are done.
    """
    waiting = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    bad_images: list[BadImage] = []
    done = 0
    progress("checking images", 0, len(source))
    while waiting:
        unfinished = []
        for chunk, bad in _checked(source, min_side, waiting, jobs):
            if bad is None:
                unfinished.append(chunk)
            else:
                bad_images += bad
                done += len(chunk)
                progress("checking images", done, len(source))
        suspects, waiting = unfinished[: 2 * jobs + 1], unfinished[2 * jobs + 1 :]
        for index in chain.from_iterable(suspects):
            [(_, bad)] = _checked(source, min_side, [range(index, index + 1)], 1)
            bad_images += [(index, f"{source.key(index)} crashes the process that decodes it")] if bad is None else bad
            done += 1
    progress("checking images", len(source), len(source))
    return sorted(bad_images)


def _checked(
    source: Source, min_side: int, chunks: list[range], jobs: int
) -> Iterator[tuple[range, list[BadImage] | None]]:
    """Yield each chunk with its bad images, or with None when a process died before it was done; in order."""
    with ProcessPoolExecutor(jobs, initializer=_init_process, initargs=(source, min_side)) as pool:
        futures = [(chunk, pool.submit(_check, chunk)) for chunk in chunks]
        for chunk, future in futures:
            try:
                yield chunk, future.result()
            except BrokenProcessPool:
                yield chunk, None


def _init_process(source: Source, min_side: int) -> None:
    global _source, _min_side
    _source, _min_side = source, min_side


def _check(indices: range) -> list[BadImage]:
    bad: list[BadImage] = []
    for index in indices:
        try:
            read_usable(_source, index, _min_side)
        except DataError as error:
            bad.append((index, str(error)))
    return bad
