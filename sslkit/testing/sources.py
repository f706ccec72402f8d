"""Checks of sources: the order, the bytes and the labels are the same for whoever asks."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from sslkit.api import Source, no_progress
from sslkit.images import upright_size
from sslkit.testing.case import Case, pickled

LOOKED_AT = 12
"""Images that are read, spread over the source."""


def opened(case: Case) -> Source:
    """Make, prepare and open a source."""
    source: Source = case.make()
    missing = source.missing()
    assert missing is None, f"missing() says: {missing}"
    source.prepare(no_progress)
    source.open()
    return source


def _places(source: Source) -> list[int]:
    return sorted(set(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int).tolist()))


def check_length(case: Case) -> None:
    """There are images, and as many for everyone."""
    first, second = opened(case), opened(case)
    assert len(first) > 0, "it is empty: open() must raise DataError when there is nothing to read"
    assert len(first) == len(second), f"it has {len(first)} images, and {len(second)} when opened again"


def check_keys(case: Case) -> None:
    """Keys are unique relative paths, in the same order each time."""
    source = opened(case)
    keys = [source.key(index) for index in range(len(source))]
    assert all(keys), "a key is empty"
    assert len(set(keys)) == len(keys), f"{len(keys) - len(set(keys))} keys occur twice"
    wrong = [key for key in keys if PurePosixPath(key).is_absolute() or "\\" in key or ".." in key.split("/")]
    assert not wrong, f"keys must be relative paths with '/': {wrong[0]!r}"
    again = opened(case)
    assert [again.key(index) for index in range(len(again))] == keys, "the order changes when it is opened again"


def check_images(case: Case) -> None:
    """Bytes are those of an image, and the same each time."""
    first, second = opened(case), opened(case)
    for index in _places(first):
        data = first.read(index)
        assert isinstance(data, bytes), f"read({index}) returned {type(data).__name__}, not bytes"
        height, width = upright_size(data, first.key(index))
        assert height > 0, f"{first.key(index)} is {height} x {width}"
        assert second.read(index) == data, f"{first.key(index)} has other bytes when it is opened again"


def check_labels(case: Case) -> None:
    """Objects lie inside their image with labels of a known category; so do whole images' labels."""
    source = opened(case)
    known = len(source.categories)
    for index in _places(source):
        height, width = upright_size(source.read(index), source.key(index))
        objects = source.objects(index)
        _boxes_inside(objects.boxes, height, width, source.key(index))
        assert len(objects.labels) == len(objects.boxes), f"{source.key(index)}: labels and boxes differ in number"
        label = source.label(index)
        labels = [*objects.labels.tolist(), *([] if label is None else [label])]
        assert all(0 <= value < known for value in labels), (
            f"{source.key(index)} has labels {labels}, but there are {known} categories"
        )


def _boxes_inside(boxes: object, height: int, width: int, key: str) -> None:
    array = np.asarray(boxes)
    assert array.dtype == np.float32, f"boxes of {key} are of {array.dtype}, not float32"
    assert array.shape == (len(array), 4), f"boxes of {key} have shape {array.shape}, not (n, 4)"
    low, high = array[:, :2], array[:, 2:]
    sound = (low >= 0).all() and (high <= (width, height)).all() and (high > low).all()
    assert sound, f"boxes of {key} ({height} x {width}) are empty or leave the image: {array.tolist()}"


def check_workers(case: Case) -> None:
    """It can be handed to worker processes after `open`, and reads the same there."""
    source = opened(case)
    other = pickled(source)
    assert len(other) == len(source), "it has another length after pickling"
    for index in _places(source)[:3]:
        assert other.key(index) == source.key(index), "keys differ after pickling"
        assert other.read(index) == source.read(index), "bytes differ after pickling"


def check_constructor_is_idle(case: Case) -> None:
    """Options that point nowhere do no harm before `missing` and `open` are called."""
    names = [name for name in ("root", "path", "folder") if name in case.options]
    elsewhere = Case(case.cls, {**case.options, **dict.fromkeys(names, type_of_path(case, names))})
    try:
        elsewhere.make()
    except Exception as error:
        raise AssertionError(
            f"the constructor looks at files: {type(error).__name__}: {error}; say it in missing()"
        ) from error


def type_of_path(case: Case, names: list[str]) -> object:
    """Return a path that leads nowhere, of the type that the case uses."""
    return type(case.options[names[0]])("/nowhere/at-all") if names else None


SOURCE = (check_length, check_keys, check_images, check_labels, check_workers, check_constructor_is_idle)
