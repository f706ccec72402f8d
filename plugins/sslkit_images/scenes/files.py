"""Write scenes to files, with annotations in COCO's format. Imports no torch, as worker processes load this module."""

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


class SceneOptions(NamedTuple):
    """The options that decide how scenes look. A scene depends only on these and on its number."""

    seeds: tuple[int, ...]
    side: int
    co_occurrence: float
    objects: tuple[int, int]


class SceneRecord(NamedTuple):
    """The annotations of one scene. Each object is (category, box xywh, run lengths, area)."""

    number: int
    height: int
    width: int
    kind: str
    objects: list[tuple[str, list[int], list[int], int]]


def file_name(number: int) -> str:
    """Return the file name of a scene."""
    return f"{number:06d}.jpg"


def write_scenes(folder: Path, options: SceneOptions, numbers: range) -> list[SceneRecord]:
    """Render and write the scenes with the given numbers.

    Raises:
        OSError: A file cannot be written.
    """
    cv2.setNumThreads(1)
    return [_write(folder, options, number) for number in numbers]


def _write(folder: Path, options: SceneOptions, number: int) -> SceneRecord:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*options.seeds, number])))
    scene = render(rng, options.side, options.co_occurrence, options.objects)
    _, encoded = cv2.imencode(".jpg", scene.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    (folder / file_name(number)).write_bytes(encoded.tobytes())
    pairs = zip(scene.names, scene.masks, strict=True)
    objects = [(name, _box(mask), _run_lengths(mask), int(mask.sum())) for name, mask in pairs]
    height, width = scene.pixels.shape[:2]
    return SceneRecord(number, height, width, scene.kind, objects)


def _box(mask: Mask) -> list[int]:
    """Return the tight box (left, top, width, height) of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _run_lengths(mask: Mask) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask: down the columns, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def coco_annotations(scenes: list[SceneRecord]) -> dict[str, Any]:
    """Return the annotations of scenes in COCO's format."""
    ids = {name: number for number, name in enumerate(CATEGORIES, 1)}
    images = [
        {"id": scene.number, "file_name": file_name(scene.number), "height": scene.height, "width": scene.width}
        | {"kind": scene.kind}
        for scene in scenes
    ]
    annotations: list[dict[str, Any]] = []
    for scene in scenes:
        for name, box, runs, area in scene.objects:
            annotations.append({
                "id": len(annotations) + 1, "image_id": scene.number, "category_id": ids[name], "bbox": box,
                "area": area, "segmentation": {"size": [scene.height, scene.width], "counts": runs}, "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"info": {"kinds": list(KINDS)}, "images": images, "categories": categories, "annotations": annotations}
