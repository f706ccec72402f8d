"""Photos that EXIF turns: whatever the source, a crop shows what its label says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sslkit import images
from sslkit.api import no_progress
from sslkit.errors import DataError
from sslkit_images.coco import Coco
from sslkit_images.shards.packing import pack
from sslkit_images.shards.source import Shards
from sslkit_images.voc import Voc

WIDTH, HEIGHT = 96, 48
BOXES = {"cat": (4, 4, 24, 20), "dog": (70, 20, 94, 44)}
COLOURS = {"cat": (255, 0, 0), "dog": (0, 0, 255)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "cache"))


def save(path, orientation, suffix):
    path.mkdir(parents=True)
    image = Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128))
    for name, box in BOXES.items():
        image.paste(COLOURS[name], box)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path / f"0{suffix}", exif=exif)


def write_coco(root, orientation, suffix, size):
    save(root / "val2017", orientation, suffix)
    listed = {
        "images": [{"id": 1, "file_name": f"0{suffix}"} | size],
        "categories": [{"id": n, "name": name} for n, name in enumerate(BOXES)],
        "annotations": [
            {"image_id": 1, "category_id": n, "bbox": [left, top, right - left, bottom - top]}
            for n, (left, top, right, bottom) in enumerate(BOXES.values())
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(listed))
    return lambda **options: Coco(root=root, split="val2017", **options)


def write_voc(root, orientation, suffix, size):
    save(root / "JPEGImages", orientation, suffix)
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom) in BOXES.items()
    )
    about = "".join(f"<{side}>{value}</{side}>" for side, value in size.items())
    (root / "Annotations").mkdir()
    (root / "Annotations" / "0.xml").write_text(f"<annotation><size>{about}</size>{objects}</annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("0\n")
    return lambda **options: Voc(root=root, **options)


def assert_shown(source):
    objects = source.objects(0)
    image = images.decode(source.read(0), source.key(0))
    names = [source.categories[label] for label in objects.labels]
    assert sorted(names) == sorted(BOXES)
    for name, crop in zip(names, images.cuts(image, objects.boxes, 8, "bilinear"), strict=True):
        assert np.abs(crop.mean((0, 1)) - COLOURS[name]).max() < 20, name


@pytest.mark.parametrize("write", [write_coco, write_voc])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_turned_with_their_image(tmp_path, write, suffix, orientation):
    make = write(tmp_path / "set", orientation, suffix, {"width": WIDTH, "height": HEIGHT})
    source = make() if orientation in {1, 5, 6, 7, 8} else make(frame="stored")
    source.open()
    assert_shown(source)
    assert source.objects(0).turned == (orientation > 1)


@pytest.mark.parametrize("write", [write_coco, write_voc])
def test_packed_they_stay_with_their_image(tmp_path, write):
    source = write(tmp_path / "set", 6, ".jpg", {"width": WIDTH, "height": HEIGHT})()
    source.open()
    pack(source, tmp_path / "tars", 10**6, no_progress)
    packed = Shards(root=tmp_path / "tars")
    packed.prepare(no_progress)
    packed.open()
    assert_shown(packed)


@pytest.mark.parametrize("write", [write_coco, write_voc])
@pytest.mark.parametrize(
    ("orientation", "size"), [(3, {"width": WIDTH, "height": HEIGHT}), (6, {}), (1, {"width": HEIGHT, "height": WIDTH})]
)
def test_what_the_annotations_do_not_tell_is_refused(tmp_path, write, orientation, size):
    source = write(tmp_path / "set", orientation, ".jpg", size)()
    source.open()
    with pytest.raises(DataError, match=r"0\.jpg .*(frame = \"upright\"|write its own width and height)"):
        source.objects(0)
