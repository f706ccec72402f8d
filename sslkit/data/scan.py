"""Check every image of a source before a run, in parallel, and list those that cannot be used."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, fields
from itertools import chain

from sslkit.api import Objects, Progress, Source, no_progress
from sslkit.contracts.sources import CheckedSource
from sslkit.data.bad_images import BadImage, decode_usable
from sslkit.errors import DataError
from sslkit.folders import processes, signals_blocked
from sslkit.images import read_header

_CHUNK = 32
_source: Source
_min_side = 1


@dataclass
class Findings:
    """What is in a source.

    Attributes:
        bad: The images that a run could not use, or whose annotations do not fit them, with the reasons.
        objects: Number of labelled objects.
        outside: Number of objects that are left out because they lie outside their image.
        turned: Number of images that EXIF turns upright.
        boxes_turned: Number of these whose boxes were turned with them.
        boxes_upright: Number of these whose boxes were upright already.
        wrong_sizes: Number of images of another size than their annotations say.
    """

    bad: list[BadImage] = field(default_factory=list)
    objects: int = 0
    outside: int = 0
    turned: int = 0
    boxes_turned: int = 0
    boxes_upright: int = 0
    wrong_sizes: int = 0

    def add(self, other: Findings) -> None:
        """Add the findings in other images."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    @property
    def frames(self) -> dict[str, int]:
        """The numbers of images that are turned upright, with their boxes, and of those of another size."""
        return {name: getattr(self, name) for name in ("turned", "boxes_turned", "boxes_upright", "wrong_sizes")}

    def count(self, turned: bool, objects: Objects) -> None:
        """Count the objects of one image, which EXIF may have turned."""
        annotated = len(objects.labels) + objects.outside > 0
        self.objects += len(objects.labels)
        self.outside += objects.outside
        self.turned += turned
        self.boxes_turned += bool(objects.turned)
        self.boxes_upright += turned and annotated and not objects.turned
        self.wrong_sizes += bool(objects.wrong_size)


def scan(source: Source, min_side: int, jobs: int, progress: Progress = no_progress) -> Findings:
    """Read and decode every image of an opened source, and its annotations.

    Args:
        source: The source of the images to read and decode.
        min_side: Images with a shorter side, in pixels, count as bad.
        jobs: Number of processes; 0 checks in this one, where there are no others. When an image crashes a process, the
            unfinished images are checked one by one to name it.
        progress: Shows how many images are done.
    """
    jobs = processes(jobs)
    waiting = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    findings = Findings()
    done = 0
    progress("checking images", 0, len(source))
    while waiting:
        unfinished = []
        for chunk, found in _checked(source, min_side, waiting, jobs):
            if found is None:
                unfinished.append(chunk)
            else:
                findings.add(found)
                done += len(chunk)
                progress("checking images", done, len(source))
        suspects, waiting = unfinished[: 2 * jobs + 1], unfinished[2 * jobs + 1 :]
        for index in chain.from_iterable(suspects):
            [(_, found)] = _checked(source, min_side, [range(index, index + 1)], 1)
            findings.add(found or Findings([(index, f"{source.key(index)} crashes the process that decodes it")]))
            done += 1
    progress("checking images", len(source), len(source))
    findings.bad.sort()
    return findings


def _checked(source: Source, min_side: int, chunks: list[range], jobs: int) -> Iterator[tuple[range, Findings | None]]:
    """Yield each chunk with its findings, or with None when a process died before it was done; in order."""
    if not jobs:
        _init_process(source, min_side)
        yield from ((chunk, _check(chunk)) for chunk in chunks)
        return
    with ProcessPoolExecutor(jobs, initializer=_init_process, initargs=(source, min_side)) as pool:
        with signals_blocked():
            futures = [(chunk, pool.submit(_check, chunk)) for chunk in chunks]
        try:
            for chunk, future in futures:
                try:
                    yield chunk, future.result()
                except BrokenProcessPool:
                    yield chunk, None
        finally:
            pool.shutdown(cancel_futures=True)


def _init_process(source: Source, min_side: int) -> None:
    global _source, _min_side
    _source, _min_side = source, min_side


def _check(indices: range) -> Findings:
    findings = Findings()
    for index in indices:
        try:
            data, key = _source.read(index), _source.key(index)
            height, width = decode_usable(data, key, _min_side).shape[:2]
            turned = read_header(io.BytesIO(data), key).orientation != 1
            objects = _source.objects(index)
            if isinstance(_source, CheckedSource):
                _source.refuse_outside(index, objects.boxes, height, width)
        except DataError as error:
            findings.bad.append((index, str(error)))
        else:
            findings.count(turned, objects)
    return findings
