"""Read COCO's annotation files, and join annotations with images and categories."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslkit.boxes import from_xywh
from sslkit.errors import DataError
from sslkit.files import EncodingError
from sslkit.json_records import JsonError, read_records
from sslkit_images.coco_index import CocoIndex
from sslkit_images.coco_tables import (
    CROWD,
    INVALID,
    OBJECT,
    UNKNOWN,
    WITHOUT_BOX,
    Annotations,
    Categories,
    Id,
    Images,
    Table,
)
from sslkit_images.names import NameList
from sslkit_images.problems import Problems, short

_LONGEST_NUMBER = 20
"""Digits of a number that may be an id; longer ones are slow to read, or refused by Python."""


def read_index(info: Path | None, instances: Path | None) -> CocoIndex:
    """Read and check the file that only lists images, and the one that also has their objects; one may be None.

    Raises:
        DataError: A file cannot be read, or records are invalid, or the files contradict each other; the message names
            the first of each kind.
    """
    files = [file for file in (info, instances) if file]
    problems = Problems()
    lists = [Images(problems, f"{file.name}: " if len(files) > 1 else "") for file in files]
    images, others = lists[0], lists[-1]
    annotations, categories = Annotations(problems), Categories(problems)
    if info and instances:
        _read(info, {"images": images}, {"images"})
    required = {"images", "annotations"} if instances else {"images"}
    _read(files[-1], {"images": others, "annotations": annotations, "categories": categories}, required)
    if info and instances:
        images.compare(others)
    index = _joined(images, others, annotations, categories)
    problems.raise_if_any(f"{' and '.join(map(str, files))} cannot be used:")
    assert index is not None
    return index


def _read(file: Path, tables: Mapping[str, Table], required: Collection[str]) -> None:
    """Read a file, and add the records of each of its lists to its table."""
    try:
        for record in read_records(file, tables, required):
            table = tables[record.key]
            if isinstance(record.value, dict):
                table.add(record)
            else:
                place = f"{table.where}{record.key}[{record.position}]"
                table.problems.add("records are not objects", f"{place} is {short(record.value)}")
                table.doubtful = True
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except (EncodingError, JsonError) as error:
        raise DataError(f"{file} cannot be read as COCO annotations: {error}") from None


def _joined(images: Images, others: Images, annotations: Annotations, categories: Categories) -> CocoIndex | None:
    """Join annotations with images and categories; return None if there are problems."""
    ids = categories.sorted_ids()
    numbers = {id_: INVALID if categories.names[id_] is None else number for number, id_ in enumerate(ids)}
    owners, labels = _rows(annotations.owners, images.rows), _rows(annotations.classes, numbers)
    elsewhere = _elsewhere(annotations.owners, owners, images, others)
    if not images.doubtful:
        _refuse_unknown(annotations, "image_id", annotations.owners, images.rows, (owners == UNKNOWN) & ~elsewhere)
        if len(elsewhere) and elsewhere.all():
            what = f"none of the {len(elsewhere)} annotations is of an image that {images.where.rstrip(': ')} lists"
            annotations.problems.add(f"{what}: the first has image_id {short(annotations.owners[0])}")
    if not categories.doubtful:
        _refuse_unknown(annotations, "category_id", annotations.classes, numbers, labels == UNKNOWN)
    if annotations.problems.counts:
        return None
    states = np.frombuffer(annotations.states, np.uint8)
    kept = np.flatnonzero(~elsewhere & (states == OBJECT))
    order = kept[np.argsort(owners[kept], kind="stable")]
    names = NameList(images.names)
    left_out = [int((~elsewhere & (states == state)).sum()) for state in (CROWD, WITHOUT_BOX)]
    return CocoIndex(
        text=names.text, offsets=names.offsets, sizes=np.array(images.sizes, np.int32).reshape(-1, 2),
        counts=np.bincount(owners[order], minlength=len(names)).astype(np.int64),
        boxes=from_xywh(np.frombuffer(annotations.boxes, np.float64))[order], labels=labels[order],
        categories=np.array([categories.names[id_] for id_ in ids], np.str_),
        left_out=np.array([*left_out, elsewhere.sum()], np.int64),
    )  # fmt: skip


def _rows(ids: list[Id | None], rows: Mapping[Id, int]) -> npt.NDArray[np.int64]:
    """Return the row of each id, `UNKNOWN` if there is none, `INVALID` if the id is."""
    return np.fromiter((INVALID if id_ is None else rows.get(id_, UNKNOWN) for id_ in ids), np.int64, len(ids))


def _elsewhere(
    ids: list[Id | None], rows: npt.NDArray[np.int64], images: Images, others: Images
) -> npt.NDArray[np.bool_]:
    """Return whether each id is that of an image which only the file with the objects lists."""
    found = np.zeros(len(ids), np.bool_)
    for place in np.flatnonzero(rows == UNKNOWN).tolist():
        id_ = ids[place]
        found[place] = id_ in others.rows and _twin(id_, images.rows) is None
    return found


def _refuse_unknown(
    annotations: Annotations, key: str, ids: list[Id | None], rows: Mapping[Id, int], unknown: npt.NDArray[np.bool_]
) -> None:
    """Refuse annotations whose image or category is not listed."""
    article, table = {"image_id": ("an", "images"), "category_id": ("a", "categories")}[key]
    for place in np.flatnonzero(unknown).tolist():
        id_ = ids[place]
        twin = _twin(id_, rows)
        hint = "" if twin is None else f", where {table} has {short(twin)}"
        record = f"annotations[{annotations.places[place]}] has {key} {short(id_)}{hint}"
        annotations.problems.add(f"annotations have {article} {key} that is not in '{table}'", record)


def _twin(id_: Id | None, rows: Mapping[Id, int]) -> Id | None:
    """Return the text for a number, or the number for a text, if that is an id."""
    twin: Id | None = None
    if isinstance(id_, int):
        twin = str(id_)
    elif id_ and len(id_) < _LONGEST_NUMBER and id_.isdecimal():
        twin = int(id_)
    return twin if twin in rows else None
