"""Group the members of a tar into samples: an image, its label and its objects share a key, as in WebDataset."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from sslkit.api import Objects
from sslkit.boxes import empty
from sslkit_images.problems import Problems
from sslkit_images.shards.annotations import MAX_SIZE, OBJECTS, AnnotationError, objects_from_json, parse_label
from sslkit_images.shards.index import BAD_LABEL, NO_LABEL, Query, Tar, TarIndex, hash_of
from sslkit_images.shards.members import Member, members

_WINDOW = 4096
"""Size of a read, bytes: a header and the small members after it."""
_META = re.compile(r"__[^/]*__($|/)")
"""Names that WebDataset ignores."""
_NO_OBJECTS = Objects()
_DEREFERENCE = "write the tar with --dereference --hard-dereference"

Read = Callable[[Member], bytes]


def read_tar(tar: Tar, query: Query) -> tuple[TarIndex, Problems]:
    """Index a tar from its headers, labels and objects, without reading the images.

    Returns:
        The index of the tar, and its problems, save for those of labels, which are in the index.

    Raises:
        OSError: The tar cannot be read.
        TarError: It cannot be read to its end.
    """
    samples = _SampleCollector(query)
    with open(tar.path, "rb", buffering=_WINDOW) as file:  # noqa: PTH123 - names may not be valid text

        def read(member: Member) -> bytes:
            file.seek(member.offset)
            return file.read(member.size)

        for member in members(file, tar.size):
            samples.add(member, read)
    return samples.index()


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
        self.without_area = 0
        self.problems, self.label_problems = Problems(), Problems()
        self.label_names: dict[int, str] = {}
        self.object_names: dict[int, str] = {}
        self.longer_names: list[tuple[int, str]] = []
        self.explained: set[int] = set()

    def add(self, member: Member, read: Read) -> None:
        """Add one member to its sample."""
        name = normalized(member.name)
        if is_ignored(name):
            return
        key, suffix = split_name(name)
        if "." + suffix in self.query.suffixes:
            self._add_image(member, name, key)
        elif suffix == self.query.label[0]:
            self._add_label(member, name, self._row(key), read)
        elif suffix == OBJECTS:
            self._add_objects(member, name, self._row(key), read)
        elif suffix.endswith("." + OBJECTS):
            self.problems.add("objects have a name with more than one dot before their suffix", name)
        elif ("." + suffix).endswith(self.query.suffixes):
            self.longer_names.append((self._row(key), name))

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
            self.problems.add(f"links stand in place of images; {_DEREFERENCE}", image)
        elif ".." in image.split("/"):
            self.problems.add("names point outside the tar", image)
        elif self.starts[row] >= 0:
            first = self.names[row].decode(errors="replace")
            self.problems.add("two images have the same key", f"{key} ({first}, {name})")
        else:
            self.names[row] = image.encode("utf-8", "surrogateescape")
            self.starts[row], self.sizes[row] = member.offset, member.size
            return
        self.explained.add(row)

    def _add_label(self, member: Member, name: str, row: int, read: Read) -> None:
        if row in self.label_names:
            self.label_problems.add("labels occur twice", name)
            return
        self.label_names[row] = name
        try:
            self.labels[row] = parse_label(_read_small(member, read), self.query.label[1:])
        except AnnotationError as error:
            self.labels[row] = BAD_LABEL
            self.label_problems.add("labels cannot be read", f"{name} {error}")

    def _add_objects(self, member: Member, name: str, row: int, read: Read) -> None:
        if row in self.object_names:
            self.problems.add("objects occur twice", name)
            return
        self.object_names[row] = name
        try:
            self.objects[row], without_area = objects_from_json(_read_small(member, read))
            self.without_area += without_area
        except AnnotationError as error:
            self.problems.add("objects cannot be read", f"{name} {error}")

    def index(self) -> tuple[TarIndex, Problems]:
        """Return the index of the tar, in the order of the images, and its problems."""
        further = self._check_joins()
        starts = np.array(self.starts, np.int64)
        order = np.argsort(starts, kind="stable")
        order = order[starts[order] >= 0]
        names = [self.names[row] for row in order]
        for name, count in Counter(names).items():
            if count > 1:
                self.problems.add("images have the same name in their PAX records", name.decode(errors="replace"))
        objects = [self.objects.get(int(row), _NO_OBJECTS) for row in order] if self.objects else []
        index = TarIndex(
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
            left_out=np.array([self.without_area, further], np.int64),
            label_problems=np.array(json.dumps(asdict(self.label_problems)), np.str_),
        )
        return index, self.problems

    def _check_joins(self) -> int:
        """Report members without their image, and return the number of images beside that of their sample."""
        further = 0
        for row, name in self.longer_names:
            if self.starts[row] >= 0:
                further += 1
                continue
            self.explained.add(row)
            self.problems.add(
                "images have a name with more than one dot; add everything from the first dot on to suffixes, or pack "
                "the images with `sslkit images pack`", name,
            )  # fmt: skip
        for what, names, problems in (
            ("labels", self.label_names, self.label_problems), ("objects", self.object_names, self.problems),
        ):  # fmt: skip
            for row, name in names.items():
                if self.starts[row] < 0 and row not in self.explained:
                    problems.add(f"{what} have no image of the same key; add its suffix to suffixes", name)
        return further


def _read_small(member: Member, read: Read) -> bytes:
    if member.link:
        raise AnnotationError(f"is a link, without contents of its own: {_DEREFERENCE}")
    if member.size > MAX_SIZE:
        raise AnnotationError(f"has {member.size} bytes: at most {MAX_SIZE} (16 MiB) are read")
    return read(member)


def _difficult(objects: Objects) -> Any:
    return np.zeros(len(objects.labels), np.bool_) if objects.difficult is None else objects.difficult
