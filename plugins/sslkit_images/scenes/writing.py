"""Scenes written to files, with annotations in COCO form. Light to import: worker processes need it, not torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from sslkit_images.scenes.backgrounds import KINDS
from sslkit_images.scenes.render import render
from sslkit_images.scenes.shapes import CATEGORIES

Mask = npt.NDArray[np.bool_]


class Look(NamedTuple):
    """What scenes look like; a scene depends on this and its number alone."""

    seeds: tuple[int, ...]
    side: int
    co_occurrence: float
    objects: tuple[int, int]


class Row(NamedTuple):
    """What the annotations need of one scene: objects are (category, box xywh, runs, area)."""

    number: int
    height: int
    width: int
    kind: str
    objects: list[tuple[str, list[int], list[int], int]]


def file_name(number: int) -> str:
    """Return the name of a scene's file."""
    return f"{number:06d}.jpg"


def write_scenes(folder: Path, look: Look, numbers: range) -> list[Row]:
    """Render and write some scenes.

    Raises:
        OSError: A file cannot be written.
    """
    cv2.setNumThreads(1)
    return [_write(folder, look, number) for number in numbers]


def _write(folder: Path, look: Look, number: int) -> Row:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*look.seeds, number])))
    scene = render(rng, look.side, look.co_occurrence, look.objects)
    _, encoded = cv2.imencode(".jpg", scene.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    (folder / file_name(number)).write_bytes(encoded.tobytes())
    pairs = zip(scene.names, scene.masks, strict=True)
    found = [(name, _box(mask), _runs(mask), int(mask.sum())) for name, mask in pairs]
    height, width = scene.pixels.shape[:2]
    return Row(number, height, width, scene.kind, found)


def _box(mask: Mask) -> list[int]:
    """Return the tight box (left, top, width, height) of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _runs(mask: Mask) -> list[int]:
    """Return COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def coco(rows: list[Row]) -> dict[str, Any]:
    """Return the annotations of scenes, as COCO writes them."""
    ids = {name: number for number, name in enumerate(CATEGORIES, 1)}
    images = [
        {"id": row.number, "file_name": file_name(row.number), "height": row.height, "width": row.width}
        | {"kind": row.kind}
        for row in rows
    ]
    annotations: list[dict[str, Any]] = []
    for row in rows:
        for name, box, runs, area in row.objects:
            annotations.append({
                "id": len(annotations) + 1, "image_id": row.number, "category_id": ids[name], "bbox": box, "area": area,
                "segmentation": {"size": [row.height, row.width], "counts": runs}, "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"info": {"kinds": list(KINDS)}, "images": images, "categories": categories, "annotations": annotations}
