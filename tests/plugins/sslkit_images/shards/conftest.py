"""Image folders, a COCO folder and tars for the tests. The tars are written by tarfile, not by sslkit."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslkit.api import no_progress
from sslkit_images.shards.source import Shards


def picture(seed: int, kind: str = "JPEG") -> bytes:
    """Return a small image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    """Write members with tarfile; `options` go to `tarfile.open`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def opened(root: Path, **options) -> Shards:
    """Prepare and open a source as a run does."""
    source = Shards(root=root, **options)
    missing = source.missing()
    assert missing is None, missing
    source.prepare(no_progress)
    source.open()
    return source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Give each test its own cache."""
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Write seven images in two labelled folders; some names have dots and underscores that a tar must not have."""
    names = ("a/1.jpg", "a/1.png", "a/v1.2 final.jpg", "a/ü.JPEG", "b/1.jpg", "b/__x__.jpg", "b/2.webp")
    for seed, name in enumerate(names):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"png": "PNG", "webp": "WEBP"}.get(name.rpartition(".")[2], "JPEG")
        path.write_bytes(picture(seed, kind))
    return tmp_path / "images"


@pytest.fixture
def coco(tmp_path) -> Path:
    """Write three images in COCO's layout, one of them without objects."""
    folder = tmp_path / "coco"
    for path in ("train2017", "annotations"):
        (folder / path).mkdir(parents=True)
    for number in range(3):
        (folder / f"train2017/{number:012d}.jpg").write_bytes(picture(number))
    boxes = [(0, 3, [1, 1.5, 4, 5]), (0, 7, [0.25, 0, 2, 2.125]), (2, 7, [3, 3, 1, 1])]
    annotations = {
        "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in range(3)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "potted plant"}],
        "annotations": [{"image_id": image, "category_id": label, "bbox": box} for image, label, box in boxes],
    }
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(annotations))
    return folder
