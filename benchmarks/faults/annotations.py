"""Annotations with one hostile value each: refused with the record's name, or read as a plain reader would read them."""

from __future__ import annotations

import io
import json
import math
import os
import random
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from faults.outcome import Part
from sslkit.api import Source, no_progress
from sslkit.errors import DataError
from sslkit_images.coco import Coco
from sslkit_images.shards.source import Shards
from sslkit_images.voc import CATEGORIES, Voc

IMAGES = 6
WIDTH, HEIGHT = 60, 40
FURTHEST = 1e6
"""Coordinates beyond this are refused, according to the documentation."""
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 7, 1.5, 10**30, 1e300, math.nan, math.inf, "", " ", "0", "1", "x", "../x.jpg", "/x.jpg",
    "a\0b", "\udcff", "é" * 300, [], [1], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, "3", 4], [-5, -5, 20, 20], [90, 90, 5, 5],
    [1, 2, -3, 4], [1, 2, 0, 4], [1, 2, math.nan, 4], [1, 2, 1e9, 4], {}, {"id": 1}, [[]],
)  # fmt: skip
"""What a field is set to."""
ABSENT = object()


def campaign(folder: Path, seed: int, coco: int, voc: int, tars: int) -> Part:
    """Spoil that many annotation files of each kind.

    Args:
        folder: An empty folder.
        seed: Seed of all draws.
        coco: Number of COCO files.
        voc: Number of VOC folders.
        tars: Number of tars.
    """
    with patch.dict(os.environ, SSLKIT_CACHE=str(folder / "cache")):
        return _campaign(folder, random.Random(seed), coco, voc, tars)


def _campaign(folder: Path, rng: random.Random, coco: int, voc: int, tars: int) -> Part:
    part = Part("annotations")
    pictures(folder / "pictures")
    outcomes: Counter[str] = Counter()
    kinds: dict[str, tuple[int, Callable[[random.Random, Path, Path], Case]]] = {
        "COCO": (coco, spoilt_coco), "VOC": (voc, spoilt_voc), "tar": (tars, spoilt_tar),
    }  # fmt: skip
    for kind, (count, spoil) in kinds.items():
        for number in range(count):
            case = spoil(rng, folder / f"{kind}-{number}", folder / "pictures")
            part.cases[kind] += 1
            outcome, wrong = judge(case)
            outcomes[f"{kind}: {outcome}"] += 1
            if wrong:
                part.fault(f"{kind}, {case.what}", wrong, case.again)
    part.figures["outcomes"] = dict(outcomes)
    return part


class Case:
    """A source with one spoilt record.

    Attributes:
        source: The source, not yet opened.
        what: What was changed.
        again: The spoilt record.
        refused: Words that the message must have; None: the source can be read.
        objects: Image -> its boxes and labels by a plain reader, if the source can be read.
        total: Number of annotations, read or left out.
    """

    def __init__(self, source: Source, what: str, again: str) -> None:
        self.source, self.what, self.again = source, what, again
        self.refused: list[str] | None = None
        self.objects: list[list[tuple[list[float], str]]] = []
        self.total = 0


def pictures(folder: Path) -> None:
    """Save the images that all cases share."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{number}.jpg")


def judge(case: Case) -> tuple[str, str]:
    """Open and read a source; return what happened, and what is wrong with that, if anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case.source.prepare(no_progress)
            case.source.open()
            read = [case.source.objects(index) for index in range(len(case.source))]
    except DataError as error:
        if case.refused is None:
            return "refused", f"it can be read, and is refused: {error}"
        missing = [word for word in case.refused if word not in str(error)]
        return "refused", f"the message lacks {missing}: {error}" if missing else ""
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    if case.refused is not None:
        return "read", f"it is read, and should be refused with {case.refused}"
    labels = case.source.categories
    found = [
        sorted((box, labels[label]) for box, label in zip(item.boxes.tolist(), item.labels.tolist(), strict=True))
        for item in read
    ]
    if found != [sorted(row) for row in case.objects]:
        return "read", f"other objects than a plain reader's: {found} instead of {case.objects}"
    count = sum(map(len, found)) + sum(item.outside for item in read) + sum(case.source.left_out().values())
    return "read", f"{count} of {case.total} annotations are accounted for" if count != case.total else ""


def clipped(box: list[float]) -> list[float] | None:
    """Clip a box (xyxy) to the image, in float32; None if less than a pixel is left."""
    limits = (WIDTH, HEIGHT, WIDTH, HEIGHT)
    left, top, right, bottom = (
        float(np.float32(min(max(side, 0), limit))) for side, limit in zip(box, limits, strict=True)
    )
    return [left, top, right, bottom] if right - left >= 1 and bottom - top >= 1 else None


def is_real(value: Any) -> bool:
    """Return whether a value is a finite number, and not a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ------------------------------------------------------------------------------------------------- COCO


def spoilt_coco(rng: random.Random, root: Path, shared: Path) -> Case:
    """Write a COCO folder, with one field of one record set to something hostile."""
    content = coco_content(rng)
    table = rng.choice(["images", "categories", "annotations", "annotations", "annotations"])
    place = rng.randrange(len(content[table]))
    spoilt = deepcopy(content)
    field = "record"
    if rng.random() < 0.1:
        spoilt[table][place] = value = rng.choice(VALUES)
    else:
        record = spoilt[table][place]
        field = rng.choice(sorted(record))
        value = rng.choice([*VALUES, ABSENT, rng.choice(spoilt[table]).get(field)])
        record.pop(field) if value is ABSENT else record.__setitem__(field, value)
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").symlink_to(shared)
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(spoilt, indent=rng.choice([None, 1])))
    case = Case(Coco(root=root, split="val2017"), f"{table}.{field}", json.dumps(spoilt[table][place]))
    plain_coco(spoilt, case)
    return case


def coco_content(rng: random.Random) -> dict[str, list[Any]]:
    """Return annotations of all images without faults."""
    boxes = [[rng.randrange(30), rng.randrange(20), rng.randint(1, 30), rng.randint(1, 20)] for _ in range(2 * IMAGES)]
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT} for number in range(IMAGES)
        ],
        "annotations": [
            {
                "id": number, "image_id": rng.randrange(IMAGES), "category_id": rng.choice([3, 9]), "bbox": box,
                "iscrowd": int(rng.random() < 0.1), "area": box[2] * box[3],
            }
            for number, box in enumerate(boxes)
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}],
    }  # fmt: skip


def plain_coco(content: dict[str, list[Any]], case: Case) -> None:
    """Say what a careful reader of the documentation expects of a file."""
    bad = [
        f"{table}[{place}]"
        for table, records in content.items()
        for place, record in enumerate(records)
        if not isinstance(record, dict) or not COCO_RULES[table](record)
    ]
    bad += repeated(content, "images", "id") + repeated(content, "images", "file_name")
    bad += repeated(content, "categories", "id") + repeated(content, "categories", "name")
    if bad:
        case.refused = [*bad[:10], "instances_val2017.json"]
        return
    names = {item["id"]: item["name"] for item in content["categories"]}
    images = {item["id"]: number for number, item in enumerate(content["images"])}
    real = [item for item in content["annotations"] if not is_crowd(item) and item["bbox"] not in (None, [])]
    lost = [
        f"annotations[{place}]"
        for place, item in enumerate(content["annotations"])
        if item["image_id"] not in images or item["category_id"] not in names
    ]
    files = {f"{number}.jpg" for number in range(IMAGES)}
    gone = [image["file_name"][:90] for image in content["images"] if image["file_name"] not in files]
    if lost or gone:
        case.refused = lost[:10] or gone
        return
    case.total = len(content["annotations"])
    case.objects = [[] for _ in images]
    for item in real:
        left, top, width, height = item["bbox"]
        image = content["images"][images[item["image_id"]]]
        declared = (image.get("height") or 0, image.get("width") or 0)
        if all(declared) and declared != (HEIGHT, WIDTH):
            case.refused = [image["file_name"], "pixels, but its boxes are of"]
            return
        box = clipped([left, top, left + width, top + height])
        if box and width and height:
            case.objects[images[item["image_id"]]].append((box, names[item["category_id"]]))


def is_id(value: Any) -> bool:
    """Return whether a value is an id: an integer, also as 3.0, or a text."""
    return (isinstance(value, str) and value != "") or (is_real(value) and value == int(value))


def is_side(value: Any) -> bool:
    """Return whether a value is the side of an image, or a placeholder."""
    return value is None or (is_real(value) and 0 <= value <= FURTHEST and value == int(value))


def is_name(value: Any) -> bool:
    """Return whether a value is a path below a folder."""
    safe = isinstance(value, str) and value.strip() != "" and "\0" not in value
    return safe and not value.startswith("/") and ".." not in value.split("/")


def is_category(value: Any) -> bool:
    """Return whether a value is a name that can be written as UTF-8."""
    return isinstance(value, str) and value.strip() != "" and not set(value) & {"\0", "\udcff"}


def is_crowd(record: Any) -> bool:
    """Return whether an annotation is of a crowd."""
    return record.get("iscrowd") in (1, "1")


def is_annotation(record: Any) -> bool:
    """Return whether the fields of an annotation are valid by themselves; a crowd's box is not looked at."""
    crowd = record.get("iscrowd")
    if not is_id(record.get("image_id")) or not is_id(record.get("category_id")):
        return False
    if isinstance(crowd, (list, dict)) or crowd not in (0, 1, "0", "1", None):
        return False
    if is_crowd(record) or record.get("bbox", 0) in (None, []):
        return True
    box = record.get("bbox")
    valid = isinstance(box, list) and len(box) == 4 and all(is_real(side) and abs(side) <= FURTHEST for side in box)
    return valid and min(box[2:]) >= 0


COCO_RULES: dict[str, Callable[[Any], bool]] = {
    "images": lambda item: is_id(item.get("id")) and is_name(item.get("file_name"))
    and is_side(item.get("width")) and is_side(item.get("height")),
    "categories": lambda item: is_id(item.get("id")) and is_category(item.get("name")),
    "annotations": is_annotation,
}  # fmt: skip


def repeated(content: dict[str, list[Any]], table: str, field: str) -> list[str]:
    """Return the records whose field another record before them has."""
    seen: list[Any] = []
    found = []
    for place, record in enumerate(content[table]):
        if not isinstance(record, dict) or not COCO_RULES[table](record):
            continue
        found += [f"{table}[{place}]"] if record[field] in seen else []
        seen.append(record[field])
    return found


# ------------------------------------------------------------------------------------------------- VOC

TEXTS = (
    "",
    " ",
    "0",
    "1",
    "-1",
    "7",
    "1.5",
    "1e300",
    "nan",
    "inf",
    "x",
    "dog",
    "DOG",
    "yes",
    "true",
    "90",
    "-90",
    "<b/>",
    "１",
)
"""What the text of an element is set to."""
FIELDS = ("name", "xmin", "ymin", "xmax", "ymax", "difficult", "width", "height")


def spoilt_voc(rng: random.Random, root: Path, shared: Path) -> Case:
    """Write a VOC folder, with one element of one file set to something hostile."""
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    (root / "JPEGImages").symlink_to(shared)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{number}\n" for number in range(IMAGES)))
    spoilt, field, text = rng.randrange(IMAGES), rng.choice(FIELDS), rng.choice([*TEXTS, None])
    case = Case(Voc(root=root, difficult="keep"), f"{field} = {text!r}", "")
    bad = []
    for number in range(IMAGES):
        left, top = rng.randint(1, 30), rng.randint(1, 20)
        about = {
            "name": rng.choice(CATEGORIES), "xmin": f"{left}", "ymin": f"{top}", "xmax": f"{left + rng.randrange(25)}",
            "ymax": f"{top + rng.randrange(15)}", "difficult": rng.choice("01"), "width": f"{WIDTH}", "height": f"{HEIGHT}",
        }  # fmt: skip
        if number == spoilt:
            about[field] = text  # type: ignore[assignment]
        written = voc_xml(about)
        (root / "Annotations" / f"{number}.xml").write_text(written)
        row = plain_voc(about)
        if number == spoilt:
            case.again = written
        if row is None:
            bad.append(f"{number}.")  # the annotation's name or the image's
        case.objects.append(row or [])
        case.total += 1
    case.refused = bad or None
    return case


def voc_xml(about: dict[str, str]) -> str:
    """Return an annotation; an element whose text is None is left out."""

    def element(name: str) -> str:
        return "" if about[name] is None else f"<{name}>{about[name]}</{name}>"

    box = "".join(element(side) for side in ("xmin", "ymin", "xmax", "ymax"))
    size = element("width") + element("height")
    item = f"<object>{element('name')}{element('difficult')}<bndbox>{box}</bndbox></object>"
    return f"<annotation><size>{size}</size>{item}</annotation>"


def is_text_number(text: str | None) -> bool:
    """Return whether a text is a finite number of pixels."""
    try:
        return abs(float(text or "")) <= FURTHEST
    except ValueError:
        return False


def plain_voc(about: dict[str, str]) -> list[tuple[list[float], str]] | None:
    """Return the objects that a careful reader finds; None: the file must be refused."""
    texts = {name: (text or "").split("<")[0].strip() for name, text in about.items()}
    for side, real in (("width", WIDTH), ("height", HEIGHT)):
        text = texts[side] or "0"
        if not is_text_number(text) or float(text) < 0 or float(text) % 1:
            return None
        if float(text) not in (0, real) and all(float(texts[other] or "0") for other in ("width", "height")):
            return None
    sides = [texts[side] for side in ("xmin", "ymin", "xmax", "ymax")]
    if (
        texts["name"] not in CATEGORIES
        or texts["difficult"] not in ("", "0", "1")
        or not all(map(is_text_number, sides))
    ):
        return None
    left, top, right, bottom = map(float, sides)
    if right < left or bottom < top:
        return None
    box = clipped([left - 1, top - 1, right, bottom])
    return [(box, texts["name"])] if box else []


# ------------------------------------------------------------------------------------------------- tars


HARMLESS: dict[str, tuple[Any, ...]] = {
    "boxes": ([-9, 4, 8, 70], [70, 50, 99, 99], [3, 3, 3, 9], [0, 0, 60.0, 40.0]) * 3, "labels": (2, 5) * 6,
    "difficult": (True, 1) * 6,
}  # fmt: skip
"""Values that a tar may have."""


def spoilt_tar(rng: random.Random, root: Path, shared: Path) -> Case:
    """Write a tar, with one value in the objects of one image set to something hostile."""
    root.mkdir()
    spoilt, field = rng.randrange(IMAGES), rng.choice(["boxes", "labels", "difficult"])
    value = rng.choice([*VALUES, *HARMLESS[field], ABSENT])
    case = Case(Shards(root=root), f"{field} = {value!r}", "")
    with tarfile.open(root / "0.tar", "w") as tar:
        for number in range(IMAGES):
            left, top = rng.randrange(30), rng.randrange(20)
            about: dict[str, Any] = {
                "boxes": [[left, top, left + 9.5, top + 8]],
                "labels": [number % 3],
                "difficult": [False],
            }
            if number == spoilt:
                inside = rng.random() < 0.6
                about.pop(field) if value is ABSENT else about.__setitem__(field, [value] if inside else value)
                case.again = json.dumps(about)
            add(tar, f"{number}.jpg", (shared / f"{number}.jpg").read_bytes())
            add(tar, f"{number}.objects.json", json.dumps(about).encode())
            rows = plain_tar(about)
            if rows is None:
                case.refused = [f"{number}.objects.json"]
            case.objects.append([(box, str(label)) for box, label in rows or [] if box])
            case.total += len(rows or [])
    return case


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def plain_tar(about: dict[str, Any]) -> list[tuple[list[float] | None, int]] | None:
    """Return each object with its clipped box, or None where the box lies outside; None: the tar must be refused."""
    boxes, labels, marks = about.get("boxes"), about.get("labels"), about.get("difficult")
    if not isinstance(boxes, list) or not isinstance(labels, list) or not isinstance(marks, (list, type(None))):
        return None
    valid = all(
        isinstance(box, list) and len(box) == 4 and all(is_real(side) and abs(side) <= FURTHEST for side in box)
        and box[0] <= box[2] and box[1] <= box[3]
        for box in boxes
    )  # fmt: skip
    valid &= all(isinstance(label, int) and not isinstance(label, bool) and 0 <= label < 10**6 for label in labels)
    valid &= all(mark in (0, 1) and isinstance(mark, int) for mark in marks or [])
    if not valid or len(boxes) != len(labels) or (marks is not None and len(marks) != len(boxes)):
        return None
    return [(clipped(box), label) for box, label in zip(boxes, labels, strict=True)]
