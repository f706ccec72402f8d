"""The members of a sample beside its image: a label as text or inside JSON, and objects as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sslkit.api import Objects
from sslkit.boxes import Boxes, sides
from sslkit.files import decode
from sslkit_images.problems import short

OBJECTS = "objects.json"
"""Suffix of the member with an image's objects: {"boxes": xyxy pixels, "labels": numbers, "difficult": bools}."""
MAX_SIZE = 1 << 24
"""Size of the largest label or object member that is read, bytes."""
_LARGEST = 1e6
"""Coordinates beyond this are no pixels."""
_MAX_LABEL = 2**62
_LEAST_SIDE = 0.999
"""A box with a side below a pixel, less what float32 may have rounded off, has no area."""


class AnnotationError(ValueError):
    """A label or objects are not what is expected; the message says what they are, and what to write."""


def parse_label(data: bytes, path: Sequence[str]) -> int:
    """Return the integer in a member: as text, or under the keys `path` in JSON.

    Raises:
        AnnotationError: There is none, or it is below 0.
    """
    if path:
        value = content = _parse_json(data)
        for key in path:
            if not isinstance(value, dict) or key not in value:
                raise AnnotationError(f"has no '{'.'.join(path)}' in {short(content)}")
            value = value[key]
        return _check_label(value)
    try:
        match = re.fullmatch(r"\s*0*([0-9]{1,18})\s*", decode(data))
    except ValueError:
        match = None
    if not match:
        raise AnnotationError(f"holds {short(data[:60])}")
    return int(match[1])


def objects_from_json(data: bytes) -> tuple[Objects, int]:
    """Read objects as `objects_to_json` writes them, and count those whose box has no area, which are left out.

    Raises:
        AnnotationError: The data is invalid.
    """
    content = _parse_json(data)
    if not isinstance(content, dict):
        raise AnnotationError(
            f'is {short(content)}: write {{"boxes": [[left, top, right, bottom], ...], "labels": [number, ...]}}'
        )
    boxes: Boxes = np.array(_read_list(content, "boxes", _check_box), np.float32).reshape(-1, 4)
    labels = np.array(_read_list(content, "labels", _check_label), np.int64)
    marked = content.get("difficult") is not None
    difficult = np.array(_read_list(content, "difficult", _check_flag), np.bool_) if marked else None
    counts = {"boxes": len(boxes), "labels": len(labels)} | ({} if difficult is None else {"difficult": len(difficult)})
    if len(set(counts.values())) > 1:
        raise AnnotationError(f"has lists of different lengths: {', '.join(f'{n} {key}' for key, n in counts.items())}")
    seen = (sides(boxes) >= _LEAST_SIDE).all(axis=1)
    marks = None if difficult is None else difficult[seen]
    return Objects(boxes[seen], labels[seen], marks), len(boxes) - int(seen.sum())


def objects_to_json(objects: Objects) -> bytes:
    """Encode objects as JSON, without loss of precision."""
    content: dict[str, Any] = {"boxes": objects.boxes.tolist(), "labels": objects.labels.tolist()}
    if objects.difficult is not None:
        content["difficult"] = objects.difficult.tolist()
    return json.dumps(content).encode()


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except AnnotationError:
        raise
    except UnicodeDecodeError as error:
        raise AnnotationError(f"is not UTF-8 text (byte 0x{error.object[error.start]:02x})") from None
    except json.JSONDecodeError as error:
        raise AnnotationError(f"is not JSON: {error}" if data.strip() else "is empty") from None
    except RecursionError:
        raise AnnotationError("is nested too deeply") from None
    except ValueError:
        raise AnnotationError("has a number of too many digits") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object whose keys occur once."""
    content = dict(pairs)
    if len(content) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise AnnotationError(f"has {short(key)} twice in one object")
    return content


def _read_list(content: dict[str, Any], key: str, check: Callable[[Any], Any]) -> list[Any]:
    if key not in content:
        raise AnnotationError(f"has no '{key}', but {short(list(content))}")
    if not isinstance(content[key], list):
        raise AnnotationError(f"has '{key}' that is no list: {short(content[key])}")
    return [check(item) for item in content[key]]


def _check_label(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_LABEL:
        raise AnnotationError(f"has {short(value)} as a label: write a whole number from 0 on")
    return value


def _check_box(box: Any) -> list[float]:
    if not (isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)):
        raise AnnotationError(f"has {short(box)}, which is no box of four numbers")
    left, top, right, bottom = box
    if not (-_LARGEST <= left <= right <= _LARGEST and -_LARGEST <= top <= bottom <= _LARGEST):
        raise AnnotationError(f"has {short(box)}, which is no box of left, top, right and bottom")
    return box


def _check_flag(mark: Any) -> bool:
    if not isinstance(mark, (bool, int)) or mark not in (0, 1):
        raise AnnotationError(f"has {short(mark)} in 'difficult', which is neither true nor false")
    return bool(mark)
