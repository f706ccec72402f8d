"""The lists of COCO's annotation files: images, categories and annotations, with every record checked."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sslkit.json_records import Record
from sslkit_images.problems import Problems, short

INVALID, UNKNOWN = -1, -2
"""In place of a row: of an id whose record cannot be used, and of one that no record has."""
OBJECT, CROWD, WITHOUT_BOX = range(3)
_LARGEST = 1e6
"""Coordinates beyond this are no pixels."""
_CROWD = {0: False, 1: True, "0": False, "1": True, None: False}

Id = int | str


@dataclass
class Table(ABC):
    """One list.

    Attributes:
        problems: Where the records that cannot be used are added.
        where: The file, for messages, where two files have such a list.
        doubtful: Whether a record has no id of its own, so that an id that is not found may be meant for that record.
    """

    problems: Problems
    where: str = ""
    doubtful: bool = False

    @abstractmethod
    def add(self, record: Record) -> None:
        """Add a record, or what is wrong with it."""

    def refuse(self, kind: str, record: Record, key: str) -> None:
        """Add a problem with what a record has under a key."""
        self.problems.add(kind, self.shown(record, key))

    def shown(self, record: Record, key: str) -> str:
        """Return where a record is, and what it holds under a key."""
        place = f"{self.where}{record.key}[{record.position}]"
        id_ = record.value.get("id")
        place += f" (id {short(id_)})" if key != "id" and isinstance(id_, (int, str)) else ""
        return f"{place} has {key} {short(record.value[key])}" if key in record.value else f"{place} has no {key}"

    def id(self, record: Record, key: str) -> Id | None:
        """Return the id under a key: an integer or a text; or None if there is no valid one."""
        value = record.value.get(key)
        if type(value) is int or (type(value) is str and value):
            return value
        if type(value) is float and value.is_integer():
            return int(value)
        self.refuse(f"{record.key} have no valid {key}", record, key)
        return None


@dataclass
class Images(Table):
    """The images of one file.

    Attributes:
        rows: Id -> the image's row, or `INVALID`.
        names: File name -> row, in the order of the rows.
        ids: Row -> id.
        places: Row -> the record's position in its file.
        sizes: Height and width of each row; 0 where the file says nothing.
    """

    rows: dict[Id, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    ids: list[Id] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("i"))

    def add(self, record: Record) -> None:
        """Add an image."""
        key, name = self._own_id(record), self._name(record)
        size = [self._side(record, side) for side in ("height", "width")]
        if key is None:
            self.doubtful = True
        elif name is None:
            self.rows[key] = INVALID
        else:
            self.rows[key] = self.names[name] = len(self.names)
            self.ids.append(key)
            self.places.append(record.position)
            self.sizes.extend(size)

    def _own_id(self, record: Record) -> Id | None:
        key = self.id(record, "id")
        if key is None or key not in self.rows:
            return key
        row = self.rows[key]
        other = f" like images[{self.places[row]}]" if row >= 0 else ""
        self.problems.add("images have an id that another one has", f"{self.shown(record, 'id')}{other}")
        return None

    def _name(self, record: Record) -> str | None:
        value = record.value.get("file_name")
        name = _inside(value) if isinstance(value, str) else None
        if name is None:
            self.refuse("images have no valid file_name", record, "file_name")
        elif name in self.names:
            self.refuse("images have a file_name that another one has", record, "file_name")
            return None
        return name

    def _side(self, record: Record, side: str) -> int:
        value = record.value.get(side)
        if value is None:
            return 0
        if not _is_number(value) or not 0 <= value <= _LARGEST or value % 1:
            self.refuse(f"images have no valid {side}", record, side)
            return 0
        return int(value)

    def compare(self, other: Images) -> None:
        """Refuse what another file says otherwise about the same image, and take the sizes that only it has."""
        names = list(self.names)
        for (name, row), key in zip(other.names.items(), other.ids, strict=True):
            same_id, same_name = self.rows.get(key, UNKNOWN), self.names.get(name)
            if same_id >= 0 and names[same_id] != name:
                self._contradict(other, row, f"file_name {short(name)}", same_id, short(names[same_id]))
            elif same_id == UNKNOWN and same_name is not None:
                self._contradict(
                    other, row, f"id {short(key)} for {short(name)}", same_name, short(self.ids[same_name])
                )
            elif same_id >= 0:
                self._take_size(other, row, same_id)

    def _take_size(self, other: Images, row: int, mine: int) -> None:
        theirs, ours = (table.sizes[2 * at : 2 * at + 2] for table, at in ((other, row), (self, mine)))
        if any(a and b and a != b for a, b in zip(theirs, ours, strict=True)):
            self._contradict(other, row, f"{theirs[1]} x {theirs[0]} pixels", mine, f"{ours[1]} x {ours[0]}")
        for side in range(2):
            self.sizes[2 * mine + side] = ours[side] or theirs[side]

    def _contradict(self, other: Images, row: int, theirs: str, mine: int, ours: str) -> None:
        self.doubtful = True
        here, there = (f"{table.where}images[{table.places[at]}]" for table, at in ((self, mine), (other, row)))
        self.problems.add("images are not the same in both files", f"{there} has {theirs} where {here} has {ours}")


@dataclass
class Categories(Table):
    """The categories.

    Attributes:
        names: Id -> name; None if the record cannot be used.
    """

    names: dict[Id, str | None] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Add a category."""
        key, name = self.id(record, "id"), self._name(record)
        if key in self.names:
            self.refuse("categories have an id that another one has", record, "id")
            key = None
        if key is None:
            self.doubtful = True
        else:
            self.names[key] = name

    def _name(self, record: Record) -> str | None:
        name = record.value.get("name")
        if not isinstance(name, str) or not name.strip() or not _is_text(name, "strict"):
            self.refuse("categories have no valid name", record, "name")
        elif name in self._used:
            self.refuse("categories have a name that another one has", record, "name")
        else:
            self._used.add(name)
            return name
        return None

    def sorted_ids(self) -> list[Id]:
        """Return the ids in order, numbers first."""
        return sorted(self.names, key=lambda key: (isinstance(key, str), key))


@dataclass
class Annotations(Table):
    """The annotations, which are joined with images and categories once all lists are read.

    Attributes:
        owners: The image's id of each; None if there is no valid one.
        classes: The category's id of each; None if there is no valid one.
        places: The record's position in its file.
        boxes: Left, top, width and height of each; 0 where there is no box.
        states: `OBJECT`, or why each is none: `CROWD` or `WITHOUT_BOX`.
    """

    owners: list[Id | None] = field(default_factory=list)
    classes: list[Id | None] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    states: bytearray = field(default_factory=bytearray)

    def add(self, record: Record) -> None:
        """Add an annotation."""
        flag = record.value.get("iscrowd")
        crowd = _CROWD.get(flag) if isinstance(flag, (int, float, str, type(None))) else None
        if crowd is None:
            self.refuse("annotations have an iscrowd that is neither 0 nor 1", record, "iscrowd")
        box = None if crowd else self._box(record)
        self.owners.append(self.id(record, "image_id"))
        self.classes.append(self.id(record, "category_id"))
        self.places.append(record.position)
        self.boxes.extend(box or (0, 0, 0, 0))
        self.states.append(CROWD if crowd else OBJECT if box else WITHOUT_BOX)

    def _box(self, record: Record) -> list[float] | None:
        """Return a valid box of at least a pixel, or None."""
        box = record.value.get("bbox", ...)
        if box is None or box == []:
            return None
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            self.refuse("annotations have no bbox of four numbers", record, "bbox")
            return None
        if not all(-_LARGEST <= value <= _LARGEST for value in box) or box[2] < 0 or box[3] < 0:
            self.refuse("annotations have a bbox that is no [left, top, width, height]", record, "bbox")
            return None
        return box if box[2] >= 1 and box[3] >= 1 else None


def _inside(name: str) -> str | None:
    """Return a file name in its plain spelling; None if it is none, or leads out of the folder of its split."""
    path = PurePosixPath(name)
    if not name.strip() or path.is_absolute() or ".." in path.parts or not _is_text(name, "surrogateescape"):
        return None
    return str(path)


def _is_text(value: str, errors: str) -> bool:
    """Return whether a string can be written: a lone surrogate, which JSON can spell, is no character."""
    try:
        return b"\0" not in value.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
