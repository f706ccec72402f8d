"""Group the members of a tar into samples: an image, its label and its objects share a key, as in WebDataset."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sslkit.api import Objects
from sslkit.boxes import Boxes, empty
from sslkit_images.names import abbreviate
from sslkit_images.shards.index import NO_LABEL, Query, Tar, TarIndex, hash_of
from sslkit_images.shards.members import Member, TarError, members

OBJECTS = "objects.json"
"""Suffix of the member with an image's objects: {"boxes": xyxy pixels, "labels": numbers, "difficult": bools}."""
_MAX_MEMBER_SIZE = 1 << 24
"""Size of the largest label or object member that is read, bytes."""
_LARGEST = 1e6
"""Coordinates beyond this are no pixels."""
_WINDOW = 4096
"""Size of a read, bytes: a header and the small members after it."""
_META = re.compile(r"__[^/]*__($|/)")
"""Names that WebDataset ignores."""

Read = Callable[[Member], bytes]


def read_tar(tar: Tar, query: Query) -> tuple[TarIndex, list[str]]:
    """Index a tar from its headers, labels and objects, without reading the images.

    Returns:
        The index of the tar, and its problems.

    Raises:
        OSError: The tar cannot be read.
    """
    samples = _SampleCollector(query)
    with open(tar.path, "rb", buffering=_WINDOW) as file:  # noqa: PTH123 - names may not be valid text

        def read(member: Member) -> bytes:
            file.seek(member.offset)
            return file.read(member.size)

        try:
            for member in members(file, tar.size):
                samples.add(member, read)
        except TarError as fault:
            return samples.index(), [str(fault)]
    return samples.index(), samples.faults()


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into its key and its suffix in lower case, at the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem else ("", "")


def normalized(name: str) -> str:
    """Return a member's name without a leading `/` or `./`, which some tar programs add."""
    while name.startswith(("/", "./")):
        name = name.removeprefix(".").lstrip("/")
    return name


def is_ignored(name: str) -> bool:
    """Return whether a member is not part of a sample: hidden, or WebDataset's metadata."""
    return bool(_META.match(name)) or not split_name(name)[1]


class _SampleCollector:
    """The samples of a tar, collected as it is read. A key has one row, whether its image or its label comes first."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.rows: dict[str, int] = {}
        self.names: list[bytes] = []
        self.starts, self.sizes, self.labels = array("q"), array("q"), array("q")
        self.objects: dict[int, Objects] = {}
        self.problems: dict[str, list[str]] = {}
        self.unlabelled: list[str] = []
        self.longer_suffixes: dict[int, str] = {}

    def add(self, member: Member, read: Read) -> None:
        """Add one member to its sample."""
        name = normalized(member.name)
        if is_ignored(name):
            return
        key, suffix = split_name(name)
        if "." + suffix in self.query.suffixes:
            self._add_image(member, name, key)
        elif suffix == self.query.label[0]:
            self._add_label(self._row(key), name, read(member) if member.size <= _MAX_MEMBER_SIZE else b"")
        elif suffix == OBJECTS:
            self._add_objects(self._row(key), name, read(member) if member.size <= _MAX_MEMBER_SIZE else b"")
        elif ("." + suffix).endswith(self.query.suffixes):
            self.longer_suffixes.setdefault(self._row(key), name)

    def _row(self, key: str) -> int:
        row = self.rows.setdefault(key, len(self.names))
        if row == len(self.names):
            self.names.append(b"")
            self.starts.append(-1)
            self.sizes.append(0)
            self.labels.append(NO_LABEL)
        return row

    def _add_image(self, member: Member, name: str, key: str) -> None:
        image = member.key or name
        row = self._row(key)
        if member.link:
            self._report("links", image)
        elif ".." in image.split("/"):
            self._report("outside", image)
        elif self.starts[row] >= 0:
            self._report("twice", f"{key} ({self.names[row].decode(errors='replace')}, {name})")
        else:
            self.names[row] = image.encode("utf-8", "surrogateescape")
            self.starts[row], self.sizes[row] = member.offset, member.size

    def _add_label(self, row: int, name: str, data: bytes) -> None:
        try:
            value = _parse_label(data, self.query.label[1:])
        except (ValueError, LookupError, TypeError, RecursionError):
            value = NO_LABEL
        if 0 <= value < 2**62:
            self.labels[row] = value
        else:
            self.unlabelled.append(f"{name} holds {data[:60]!r}")

    def _add_objects(self, row: int, name: str, data: bytes) -> None:
        try:
            self.objects[row] = objects_from_json(data)
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
            self._report("objects", f"{name} ({error})")

    def _report(self, problem: str, name: str) -> None:
        self.problems.setdefault(problem, []).append(name)

    def faults(self) -> list[str]:
        """Return the problems of this tar, one line for each kind."""
        lost = [name for row, name in self.longer_suffixes.items() if self.starts[row] < 0]
        if lost:
            self.problems["lost"] = lost
        index = self.index()
        if len(np.unique(index.hashes)) < len(index):
            self._report("same", "see its PAX records")
        return [_PROBLEMS[problem].format(abbreviate(names)) for problem, names in self.problems.items()]

    def index(self) -> TarIndex:
        """Return the index of the tar, in the order of the images."""
        starts = np.array(self.starts, np.int64)
        order = np.argsort(starts, kind="stable")
        order = order[starts[order] >= 0]
        names = [self.names[row] for row in order]
        objects = [self.objects.get(int(row), _NO_OBJECTS) for row in order] if self.objects else []
        return TarIndex(
            text=np.frombuffer(b"".join(names), np.uint8),
            lengths=np.array([len(name) for name in names], np.int32),
            hashes=np.array([hash_of(name) for name in names], np.uint64),
            starts=starts[order],
            sizes=np.array(self.sizes, np.int64)[order],
            labels=np.array(self.labels, np.int64)[order],
            counts=np.array([len(item.labels) for item in objects] or np.zeros(len(order)), np.int32),
            boxes=np.concatenate([empty(), *(item.boxes for item in objects)]),
            classes=np.concatenate([np.zeros(0, np.int64), *(item.labels for item in objects)]),
            difficult=np.concatenate([np.zeros(0, np.bool_), *(_difficult(item) for item in objects)]),
            faults=np.array([abbreviate(self.unlabelled)] if self.unlabelled else [], np.str_),
        )


_NO_OBJECTS = Objects()
_PROBLEMS = {
    "twice": "holds two images with the same key: {}",
    "links": "holds links instead of images: {}; write it with tar --dereference --hard-dereference",
    "outside": "holds names that point outside the tar: {}",
    "same": "holds two images with the same name: {}",
    "objects": "holds objects that cannot be read: {}",
    "lost": "holds images whose names have more than one dot: {}; add everything from the first dot on "
    "to suffixes, or pack the images with `sslkit images pack`",
}


def _parse_label(data: bytes, path: Sequence[str]) -> int:
    """Return the integer in a member: as text, or under the keys `path` in JSON."""
    if not path:
        return int(data[:64].decode())
    value: Any = json.loads(data)
    for key in path:
        value = value[key]
    return _check_integer(value)


def _check_integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def objects_from_json(data: bytes) -> Objects:
    """Read objects as `objects_to_json` writes them.

    Raises:
        ValueError: The data is invalid. Also LookupError, TypeError, OverflowError or RecursionError.
    """
    content = json.loads(data)
    boxes: Boxes = np.array([_check_box(box) for box in content["boxes"]], np.float32).reshape(-1, 4)
    labels = np.array([_check_integer(label) for label in content["labels"]], np.int64)
    marks = content.get("difficult")
    difficult = np.array([_check_flag(mark) for mark in marks], np.bool_) if marks is not None else None
    if labels.shape != (len(boxes),) or (difficult is not None and difficult.shape != labels.shape):
        raise ValueError(f"{len(boxes)} boxes but {labels.size} labels")
    if labels.min(initial=0) < 0:
        raise ValueError("a label is below 0")
    return Objects(boxes, labels, difficult)


def _check_box(box: Any) -> list[float]:
    if not (isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)):
        raise ValueError(f"{box!r} is no box of four numbers")
    left, top, right, bottom = box
    if not (-_LARGEST <= left <= right <= _LARGEST and -_LARGEST <= top <= bottom <= _LARGEST):
        raise ValueError(f"{box} is no box of left, top, right and bottom")
    return box


def _check_flag(mark: Any) -> bool:
    if mark not in (0, 1) or not isinstance(mark, (bool, int)):
        raise TypeError(f"{mark!r} is neither true nor false")
    return bool(mark)


def objects_to_json(objects: Objects) -> bytes:
    """Encode objects as JSON, without loss of precision."""
    content: dict[str, Any] = {"boxes": objects.boxes.tolist(), "labels": objects.labels.tolist()}
    if objects.difficult is not None:
        content["difficult"] = objects.difficult.tolist()
    return json.dumps(content).encode()


def _difficult(objects: Objects) -> Any:
    return np.zeros(len(objects.labels), np.bool_) if objects.difficult is None else objects.difficult
