"""From the members of a tar to samples: an image, its label and its objects share a key, as in WebDataset."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sslkit.api import Objects
from sslkit.boxes import Boxes, empty
from sslkit_images.shards.index import NO_LABEL, Asked, Part, Tar, hash_of
from sslkit_images.shards.members import Member, TarError, members
from sslkit_images.shards.patterns import some

OBJECTS = "objects.json"
"""Ending of the member that holds an image's objects: {"boxes": xyxy pixels, "labels": numbers, "difficult": bools}."""
_MOST = 1 << 24
"""Bytes of the largest member that is read while indexing."""
_WINDOW = 4096
"""Bytes that are read at once: a header, and the small members behind it."""
_META = re.compile(r"__[^/]*__($|/)")
"""What WebDataset passes over."""

Read = Callable[[Member], bytes]


def read_tar(tar: Tar, asked: Asked) -> tuple[Part, list[str]]:
    """Index a tar from its headers, labels and objects; images are not read.

    Returns:
        What it holds, and everything that is wrong with it.

    Raises:
        OSError: It cannot be read.
    """
    samples = _Samples(asked)
    with open(tar.path, "rb", buffering=_WINDOW) as file:  # noqa: PTH123 - names may be no text

        def read(member: Member) -> bytes:
            file.seek(member.at)
            return file.read(member.size)

        try:
            for member in members(file, tar.size):
                samples.take(member, read)
        except TarError as fault:
            return samples.part(), [str(fault)]
    return samples.part(), samples.faults()


def split(name: str) -> tuple[str, str]:
    """Return the key of a member, and the ending behind it in lower case: the base name parts at its first dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return (f"{folder}{slash}{stem}", ending.lower()) if stem else ("", "")


def plain(name: str) -> str:
    """Return a member's name without the beginnings that tar leaves out or adds."""
    while name.startswith(("/", "./")):
        name = name.removeprefix(".").lstrip("/")
    return name


def passed_over(name: str) -> bool:
    """Say whether a member is no part of a sample: it is hidden, or WebDataset's own."""
    return bool(_META.match(name)) or not split(name)[1]


class _Samples:
    """Grows while a tar is read; a row is a key, whether its image or its label comes first."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.rows: dict[str, int] = {}
        self.names: list[bytes] = []
        self.at, self.size, self.labels = array("q"), array("q"), array("q")
        self.objects: dict[int, Objects] = {}
        self.wrong: dict[str, list[str]] = {}
        self.unlabelled: list[str] = []
        self.longer: dict[int, str] = {}

    def take(self, member: Member, read: Read) -> None:
        """Take in one member."""
        name = plain(member.name)
        if passed_over(name):
            return
        key, ending = split(name)
        if "." + ending in self.asked.suffixes:
            self._image(member, name, key)
        elif ending == self.asked.label[0]:
            self._label(self._row(key), name, read(member) if member.size <= _MOST else b"")
        elif ending == OBJECTS:
            self._objects(self._row(key), name, read(member) if member.size <= _MOST else b"")
        elif ("." + ending).endswith(self.asked.suffixes):
            self.longer.setdefault(self._row(key), name)

    def _row(self, key: str) -> int:
        row = self.rows.setdefault(key, len(self.names))
        if row == len(self.names):
            self.names.append(b"")
            self.at.append(-1)
            self.size.append(0)
            self.labels.append(NO_LABEL)
        return row

    def _image(self, member: Member, name: str, key: str) -> None:
        own = member.key or name
        row = self._row(key)
        if member.link:
            self._wrong("links", own)
        elif ".." in own.split("/"):
            self._wrong("outside", own)
        elif self.at[row] >= 0:
            self._wrong("twice", f"{key} ({self.names[row].decode(errors='replace')}, {name})")
        else:
            self.names[row] = own.encode("utf-8", "surrogateescape")
            self.at[row], self.size[row] = member.at, member.size

    def _label(self, row: int, name: str, data: bytes) -> None:
        try:
            value = _inside(data, self.asked.label[1:])
        except (ValueError, LookupError, TypeError, RecursionError):
            value = NO_LABEL
        if 0 <= value < 2**62:
            self.labels[row] = value
        else:
            self.unlabelled.append(f"{name} holds {data[:60]!r}")

    def _objects(self, row: int, name: str, data: bytes) -> None:
        try:
            self.objects[row] = objects_from(data)
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
            self._wrong("objects", f"{name} ({error})")

    def _wrong(self, what: str, name: str) -> None:
        self.wrong.setdefault(what, []).append(name)

    def faults(self) -> list[str]:
        """Say everything that is wrong with this tar, each kind in one line."""
        lost = [name for row, name in self.longer.items() if self.at[row] < 0]
        if lost:
            self.wrong["lost"] = lost
        part = self.part()
        if len(np.unique(part.hashes)) < len(part):
            self._wrong("same", "see its PAX records")
        return [_FAULTS[what].format(some(names)) for what, names in self.wrong.items()]

    def part(self) -> Part:
        """Return what was found, in the order of the images."""
        at = np.array(self.at, np.int64)
        order = np.argsort(at, kind="stable")
        order = order[at[order] >= 0]
        names = [self.names[row] for row in order]
        found = [self.objects.get(int(row), _NOTHING) for row in order] if self.objects else []
        return Part(
            text=np.frombuffer(b"".join(names), np.uint8),
            lengths=np.array([len(name) for name in names], np.int32),
            hashes=np.array([hash_of(name) for name in names], np.uint64),
            at=at[order],
            size=np.array(self.size, np.int64)[order],
            labels=np.array(self.labels, np.int64)[order],
            counts=np.array([len(item.labels) for item in found] or np.zeros(len(order)), np.int32),
            boxes=np.concatenate([empty(), *(item.boxes for item in found)]),
            classes=np.concatenate([np.zeros(0, np.int64), *(item.labels for item in found)]),
            difficult=np.concatenate([np.zeros(0, np.bool_), *(_hard(item) for item in found)]),
            faults=np.array([some(self.unlabelled)] if self.unlabelled else [], np.str_),
        )


_NOTHING = Objects()
_FAULTS = {
    "twice": "holds two images of one key: {}",
    "links": "holds links in place of images: {}; write it with tar --dereference --hard-dereference",
    "outside": "holds names that lead out of it: {}",
    "same": "holds two images of one name: {}",
    "objects": "holds objects that cannot be read: {}",
    "lost": "holds images whose names have more than one dot, of which all that follows the first is the ending: {}; "
    "name such endings in suffixes, or pack the photos with `sslkit images pack`",
}


def _inside(data: bytes, path: Sequence[str]) -> int:
    """Return the whole number that a member holds: as text, or behind `path` in JSON."""
    if not path:
        return int(data[:64].decode())
    value: Any = json.loads(data)
    for key in path:
        value = value[key]
    return _whole(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def objects_from(data: bytes) -> Objects:
    """Read objects as `objects_to` writes them.

    Raises:
        ValueError: They are something else; or a LookupError, TypeError, OverflowError or RecursionError.
    """
    found = json.loads(data)
    boxes: Boxes = np.array(found["boxes"], np.float32).reshape(-1, 4)
    labels = np.array([_whole(label) for label in found["labels"]], np.int64)
    hard = np.array(found["difficult"], np.bool_) if found.get("difficult") is not None else None
    if labels.shape != (len(boxes),) or (hard is not None and hard.shape != labels.shape):
        raise ValueError(f"{len(boxes)} boxes and {labels.size} labels")
    if not np.isfinite(boxes).all() or labels.min(initial=0) < 0:
        raise ValueError("a box that is not finite or a label below 0")
    return Objects(boxes, labels, hard)


def objects_to(objects: Objects) -> bytes:
    """Write objects as JSON, exactly."""
    found: dict[str, Any] = {"boxes": objects.boxes.tolist(), "labels": objects.labels.tolist()}
    if objects.difficult is not None:
        found["difficult"] = objects.difficult.tolist()
    return json.dumps(found).encode()


def _hard(objects: Objects) -> Any:
    return np.zeros(len(objects.labels), np.bool_) if objects.difficult is None else objects.difficult
