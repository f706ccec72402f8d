"""A source whose every answer is checked."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from sslkit.api import Objects, Progress, Source
from sslkit.boxes import Boxes, clip
from sslkit.contracts.arrays import FORM, TOLERANCE, array_fault, is_index, named, shown
from sslkit.contracts.blame import blamed, breach
from sslkit.plugins import Component

MOST_IMAGES = 10**10
"""Images that a source may have: a run hashes the keys of all."""


class CheckedSource(Source):
    """A source, checked: wrong answers and failures of any method are told with its plugin and line.

    One thread at a time asks for a key, bytes, a label or objects, unless the source allows several. Other attributes
    are those of the source.

    Args:
        component: The source's component.
        source: The source.

    Raises:
        PluginError: By every method, if the source fails or returns what its contract does not allow.
    """

    def __init__(self, component: Component, source: Source) -> None:
        self.component, self.source = component, source
        self._length: int | None = None
        self._turn = _turn(source)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the source."""
        if name.startswith("__") or name == "source":  # not there yet while this object is being unpickled
            raise AttributeError(name)
        return getattr(self.source, name)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the lock, which stays in its process."""
        return {**vars(self), "_turn": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        vars(self).update(state, _turn=_turn(state["source"]))

    def missing(self) -> str | None:
        """Return the source's message, or None if nothing is missing."""
        return missing_message(self.component, self.source)

    def prepare(self, progress: Progress) -> None:
        """Let the source create what it can."""
        with blamed(self.component, "prepare"):
            self.source.prepare(progress)

    def open(self) -> None:
        """Open the source; check its length and its categories."""
        with blamed(self.component, "open"):
            self.source.open()
        self._length = self._checked_length()
        if self._length == 0:
            what = "returned 0, and open() did not fail: raise a DataError there that says what is missing"
            raise breach(self.component, "__len__", what)
        self.categories = self._checked_categories()

    def __len__(self) -> int:
        """Return the number of images, as it was when the source was opened."""
        return self._checked_length() if self._length is None else self._length

    def _checked_length(self) -> int:
        with blamed(self.component, "__len__"):
            length: Any = type(self.source).__len__(self.source)
        if is_index(length) and 0 <= length <= MOST_IMAGES:
            return operator.index(length)
        raise breach(
            self.component, "__len__", f"returned {shown(length)}: return the number of images, at most {MOST_IMAGES}"
        )

    def _checked_categories(self) -> Sequence[str]:
        with blamed(self.component, "categories"):
            categories: Any = self.source.categories
        if isinstance(categories, Iterable) and not isinstance(categories, str):
            names = list(categories)
            if all(isinstance(name, str) for name in names):
                return names
        raise breach(self.component, "categories", f"is {shown(categories)}: write the names of the labels, as strings")

    def key(self, index: int) -> str:
        """Return the key of an image."""
        with self._turn, blamed(self.component, "key"):
            key: Any = self.source.key(index)
        if isinstance(key, str) and key:
            return key
        raise breach(
            self.component, "key", f"returned {shown(key)} for image {index}: return a relative path, as a string"
        )

    def read(self, index: int) -> bytes:
        """Return the bytes of an image."""
        with self._turn, blamed(self.component, "read"):
            data: Any = self.source.read(index)
        if isinstance(data, bytes):
            return data
        raise breach(self.component, "read", f"returned {named(data)} for image {index}: return the encoded bytes")

    def objects(self, index: int) -> Objects:
        """Return the objects of an image: float32 boxes, and int64 labels of its categories."""
        with self._turn, blamed(self.component, "objects"):
            objects: Any = self.source.objects(index)
        if fault := _objects_fault(objects, len(self.categories)):
            raise breach(self.component, "objects", f"returned for image {index} {fault}")
        assert isinstance(objects, Objects)
        boxes = objects.boxes.astype(np.float32, copy=False)
        boxes = np.maximum(boxes, 0) if (boxes < 0).any() else boxes
        if boxes is objects.boxes and objects.labels.dtype == np.int64:
            return objects
        return replace(objects, boxes=boxes, labels=objects.labels.astype(np.int64))

    def refuse_outside(self, index: int, boxes: Boxes, height: int, width: int) -> None:
        """Refuse boxes of objects that reach outside their image, whose size is known once it is decoded."""
        clipped = clip(boxes, height, width)
        if len(boxes) and np.abs(boxes - clipped).max() > TOLERANCE:
            box = boxes[np.abs(boxes - clipped).max(axis=1).argmax()].tolist()
            what = f"returned for image {index} the box {box}, and the upright image has {width} x {height} pixels"
            raise breach(self.component, "objects", what)

    def label(self, index: int) -> int | None:
        """Return the label of an image, or None."""
        with self._turn, blamed(self.component, "label"):
            label: Any = self.source.label(index)
        if label is None or (is_index(label) and 0 <= label < len(self.categories)):
            return None if label is None else operator.index(label)
        what = f"returned {shown(label)} for image {index}: return None, or {_range(len(self.categories))}"
        raise breach(self.component, "label", what)

    def left_out(self) -> Mapping[str, int]:
        """Return the counts of what the source left out."""
        with blamed(self.component, "left_out"):
            counts: Any = self.source.left_out()
        if not isinstance(counts, Mapping) or not all(isinstance(k, str) and is_index(n) for k, n in counts.items()):
            raise breach(self.component, "left_out", f"returned {shown(counts)}: return a number for each kind")
        if any(number < 0 for number in counts.values()):
            raise breach(self.component, "left_out", f"returned {shown(counts)}: numbers are at least 0")
        return counts


def _turn(source: Source) -> AbstractContextManager[object]:
    """Return what a thread holds while it asks for one image."""
    return nullcontext() if source.reads_in_threads else Lock()


def missing_message(component: Component, part: Any, *arguments: Any) -> str | None:
    """Call the `missing` of a source or a proposer, and return its message or None.

    Raises:
        PluginError: It failed, or returned something else.
    """
    with blamed(component, "missing"):
        message: Any = part.missing(*arguments)
    if message is None or (isinstance(message, str) and message.strip()):
        return message
    raise breach(component, "missing", f"returned {shown(message)}: return what is missing, in words, or None")


def refuse_repeated_keys(source: Source, hashes: array[int]) -> None:
    """Make sure that the keys of a source are unique.

    Args:
        source: The opened source.
        hashes: The hash of each key.

    Raises:
        PluginError: Two images have the same key.
    """
    values = np.asarray(hashes)
    order = np.argsort(values, kind="stable")
    same = np.flatnonzero(np.diff(values[order]) == 0)
    for first, second in sorted(zip(order[same].tolist(), order[same + 1].tolist(), strict=True)):
        if isinstance(source, CheckedSource) and (key := source.key(first)) == source.key(second):
            what = f"returned {shown(key)} for image {first} and for image {second}: keys are unique"
            raise breach(source.component, "key", what)


def _range(categories: int) -> str:
    return f"a label from 0 to {categories - 1}" if categories else "name the labels in `categories`"


def _objects_fault(objects: Any, categories: int) -> str | None:
    if not isinstance(objects, Objects):
        return f"{named(objects)}: return a sslkit.api.Objects"
    boxes: Any = objects.boxes
    labels: Any = objects.labels
    difficult: Any = objects.difficult
    if fault := array_fault(boxes):
        return f"as boxes {fault}"
    with np.errstate(over="ignore"):
        boxes = boxes.astype(np.float32, copy=False)
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        return f"as labels {named(labels)}: write a NumPy array of int64, shape (n,)"
    if difficult is not None and (not isinstance(difficult, np.ndarray) or difficult.dtype != np.bool_):
        return f"as difficult {named(difficult)}: write a NumPy array of bool, shape (n,), or None"
    for name, values in (("labels", labels), ("difficult", difficult)):
        if values is not None and values.shape != (len(boxes),):
            return f"{len(boxes)} boxes and {name} of shape {values.shape}: write one for each box"
    if len(boxes) and not 0 <= labels.min() <= labels.max() < categories:
        return f"labels from {labels.min()} to {labels.max()} of {categories} categories: write {_range(categories)}"
    if not is_index(objects.outside) or objects.outside < 0:
        return f"{shown(objects.outside)} as outside: write the number of objects that were left out"
    for name, flag in (("turned", objects.turned), ("wrong_size", objects.wrong_size)):
        if not isinstance(flag, (bool, np.bool_)):
            return f"{shown(flag)} as {name}: write True or False"
    right = np.isfinite(boxes) & (boxes >= -TOLERANCE)
    right[:, 2:] &= boxes[:, 2:] >= boxes[:, :2]
    if not right.all():
        box = int(np.flatnonzero(~right.all(axis=1))[0])
        return f"box {box}: {boxes[box].tolist()}, which {_wrong(boxes[box])}"
    return None


def _wrong(box: Any) -> str:
    """Say what is wrong with a box that is not finite, inverted, or farther outside than `TOLERANCE`."""
    if not np.isfinite(box).all():
        return "is not finite"
    if (box[2:] < box[:2]).any():
        return f"is inverted: {FORM}"
    return f"reaches {-box.min():g} pixels outside the image: clip boxes to it, and leave out those outside"
