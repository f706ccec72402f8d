"""Checks of sources: order, bytes and labels are valid, and the same in every process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from traceback import extract_tb

import numpy as np

from sslkit.api import Source, no_progress
from sslkit.images import upright_size
from sslkit.testing.case import Case, pickled

READ = 12
"""Number of images that are read, spread over the source."""
THREADS, REPEATS = 8, 20
"""Threads that read at once, and how often they read each of these images."""

_ASKED = ("read", "key", "label", "objects")


def opened(case: Case) -> Source:
    """Make, prepare, open and return a source."""
    source: Source = case.make()
    missing = source.missing()
    assert missing is None, f"its data is missing: {missing}"
    source.prepare(no_progress)
    source.open()
    return source


def _indices(source: Source) -> list[int]:
    return sorted(set(np.linspace(0, len(source) - 1, READ).astype(int).tolist()))


def check_length(case: Case) -> None:
    """The source has images, and the same number each time it is opened."""
    first, second = opened(case), opened(case)
    assert len(first) > 0, "it is empty: raise DataError in open() if there are no images"
    assert len(first) == len(second), f"it has {len(first)} images, but {len(second)} when opened again"


def check_keys(case: Case) -> None:
    """Keys are unique relative paths, in the same order each time."""
    source = opened(case)
    keys = [source.key(index) for index in range(len(source))]
    assert all(keys), "a key is empty: write a relative path"
    assert len(set(keys)) == len(keys), f"{len(keys) - len(set(keys))} keys occur twice"
    invalid = [key for key in keys if PurePosixPath(key).is_absolute() or "\\" in key or ".." in key.split("/")]
    assert not invalid, f"the key {invalid[0]!r} is not a relative path with '/'"
    second = opened(case)
    assert [second.key(index) for index in range(len(second))] == keys, (
        "the order changes when it is opened again: sort the keys"
    )


def check_images(case: Case) -> None:
    """`read` returns the bytes of an image, the same each time."""
    first, second = opened(case), opened(case)
    for index in _indices(first):
        data = first.read(index)
        assert isinstance(data, bytes), f"read({index}) returned {type(data).__name__}, not bytes"
        height, width = upright_size(data, first.key(index))
        assert height > 0, f"{first.key(index)} has the size {height} x {width}"
        assert second.read(index) == data, f"{first.key(index)} has different bytes when the source is opened again"


def check_labels(case: Case) -> None:
    """Objects lie inside their image, and labels of objects and images are indices into `categories`."""
    source = opened(case)
    count = len(source.categories)
    for index in _indices(source):
        height, width = upright_size(source.read(index), source.key(index))
        objects = source.objects(index)
        _check_boxes(objects.boxes, height, width, source.key(index))
        assert len(objects.labels) == len(objects.boxes), (
            f"{source.key(index)}: {len(objects.labels)} labels for {len(objects.boxes)} boxes"
        )
        label = source.label(index)
        labels = [*objects.labels.tolist(), *([] if label is None else [label])]
        assert all(0 <= value < count for value in labels), (
            f"{source.key(index)} has labels {labels}, but there are {count} categories"
        )


def _check_boxes(boxes: object, height: int, width: int, key: str) -> None:
    array = np.asarray(boxes)
    assert array.dtype == np.float32, f"boxes of {key} are of type {array.dtype}: convert them to float32"
    assert array.shape == (len(array), 4), f"boxes of {key} have shape {array.shape}, not (n, 4)"
    low, high = array[:, :2], array[:, 2:]
    valid = (low >= 0).all() and (high <= (width, height)).all() and (high > low).all()
    assert valid, f"boxes of {key} ({height} x {width}) are empty or outside the image: {array.tolist()}"


def check_workers(case: Case) -> None:
    """After `open`, the source can be sent to worker processes, and reads the same there."""
    source = opened(case)
    copy = pickled(source)
    assert len(copy) == len(source), "its length differs after pickling"
    for index in _indices(source)[:3]:
        assert copy.key(index) == source.key(index), "keys differ after pickling"
        assert copy.read(index) == source.read(index), "bytes differ after pickling"


def check_threads(case: Case) -> None:
    """A source answers in another thread than `open`'s, and in several at once if `reads_in_threads` says so."""
    source = opened(case)
    indices = _indices(source)
    expected = [_answers(source, index) for index in indices]
    with ThreadPoolExecutor(1) as pool:
        _compare(_answers_in(pool, source, indices), expected, "when another thread asks for them")
    if not source.reads_in_threads:
        return
    with ThreadPoolExecutor(THREADS) as pool, _frequent_switches():
        repeated = _answers_in(pool, source, indices * REPEATS)
    _compare(repeated, expected * REPEATS, "when several threads read at once: set reads_in_threads = False")


def _answers(source: Source, index: int) -> dict[str, object]:
    """Return all that a source says of an image."""
    objects = source.objects(index)
    boxes, labels = np.asarray(objects.boxes).tolist(), np.asarray(objects.labels).tolist()
    return {
        "bytes": source.read(index), "keys": source.key(index), "labels": source.label(index),
        "objects": (boxes, labels),
    }  # fmt: skip


def _compare(answers: list[dict[str, object]], expected: list[dict[str, object]], when: str) -> None:
    differ = [name for name in expected[0] if any(a[name] != b[name] for a, b in zip(answers, expected, strict=True))]
    assert not differ, f"{', '.join(differ)} differ {when}"


def _answers_in(pool: Executor, source: Source, indices: list[int]) -> list[dict[str, object]]:
    try:
        return list(pool.map(partial(_answers, source), indices))
    except Exception as error:
        method = next((frame.name for frame in extract_tb(error.__traceback__) if frame.name in _ASKED), "it")
        raise AssertionError(
            f"{method}() fails in another thread: {type(error).__name__}: {error}; do not keep what belongs to one "
            "thread, and set reads_in_threads = False if threads must wait for each other"
        ) from error


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let threads interrupt each other as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def check_constructor_is_idle(case: Case) -> None:
    """The constructor does not access files: paths that do not exist are accepted until `missing` and `open`."""
    names = [name for name in ("root", "path", "folder") if name in case.options]
    elsewhere = Case(case.cls, {**case.options, **dict.fromkeys(names, nowhere(case, names))})
    try:
        elsewhere.make()
    except Exception as error:
        raise AssertionError(
            f"the constructor accesses files: {type(error).__name__}: {error}; report missing files in missing()"
        ) from error


def nowhere(case: Case, names: list[str]) -> object:
    """Return a path that does not exist, of the type that the case uses."""
    return type(case.options[names[0]])("/nowhere/at-all") if names else None


SOURCE = (check_length, check_keys, check_images, check_labels, check_workers, check_threads, check_constructor_is_idle)
