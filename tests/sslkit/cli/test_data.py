"""`sslkit data check` on folders and recipes."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from sslkit.__main__ import main


@pytest.fixture
def images(tmp_path):
    """A folder of four images, one of which is empty."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"")
    return folder


def test_a_folder_is_checked_and_the_list_written(images, tmp_path, capsys):
    assert main(["data", "check", str(images), "--out", str(tmp_path / "bad.json")]) == 5
    output = capsys.readouterr().out
    assert "c.png is empty (0 bytes)" in output
    assert "1 of 4 images cannot be used; the list is in" in output
    assert json.loads((tmp_path / "bad.json").read_text()) == [
        {"image": 2, "key": "c.png", "reason": "c.png is empty (0 bytes)"}
    ]


def test_a_file_name_that_is_not_valid_text(images, tmp_path, capsys):
    (images / "c.png").rename(images / os.fsdecode(b"odd \xff.png"))
    assert main(["data", "check", str(images), "--out", str(tmp_path / "bad.json")]) == 5
    assert r"odd \udcff.png is empty" in capsys.readouterr().out
    assert json.loads((tmp_path / "bad.json").read_text())[0]["key"] == "odd \udcff.png"


def test_a_good_folder_ends_with_zero(images, capsys):
    (images / "c.png").unlink()
    assert main(["data", "check", str(images)]) == 0
    assert "all 3 images can be used" in capsys.readouterr().out


def test_a_recipe_decides_what_is_too_small(images, tmp_path, capsys, small_recipe):
    (tmp_path / "small.toml").write_text("min_image_side = 41\n" + small_recipe)
    sets = ["--set", f"source={{use='folder', root='{images}'}}", "--json"]
    assert main(["data", "check", str(tmp_path / "small.toml"), *sets]) == 5
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 4
    assert [row["key"] for row in report["bad"]] == ["a.png", "b.png", "c.png", "d.png"]
    assert main(["data", "check", str(tmp_path / "small.toml"), *sets, "--min-side", "40"]) == 5
    assert [row["key"] for row in json.loads(capsys.readouterr().out)["bad"]] == ["c.png"]


def test_a_missing_folder(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "nothing")]) == 3
    assert "nothing" in capsys.readouterr().err


def test_a_list_that_cannot_be_written(images, capsys):
    assert main(["data", "check", str(images), "--out", "/proc/nowhere/bad.json"]) == 1
    assert "/proc/nowhere cannot be written" in (error := capsys.readouterr().err)
    assert "Traceback" not in error


def test_labels_are_checked_and_what_is_left_out_is_counted(tmp_path, capsys, small_recipe):
    for number, size in enumerate([(50, 40), (40, 50)]):
        path = tmp_path / "coco" / "val2017" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    objects = [(0, [1, 1, 20, 20], 0), (0, [60, 1, 20, 20], 0), (0, [1, 1, 9, 9], 1), (1, [2, 2, 9, 9], 0), (1, [], 0)]
    listed = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 50, "height": 40} for n in range(2)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": image, "category_id": 1, "bbox": box, "iscrowd": crowd} for image, box, crowd in objects
        ],
    }
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(listed))
    (tmp_path / "small.toml").write_text(small_recipe)
    sets = ["--set", f"source={{use='coco', root='{tmp_path / 'coco'}', split='val2017'}}"]
    assert main(["data", "check", str(tmp_path / "small.toml"), *sets]) == 5
    report = " ".join(capsys.readouterr().out.split())
    assert "1.jpg has 40 x 50 pixels, but its boxes are of an image of 50 x 40" in report
    assert "1 of 2 images cannot be used" in report
    left_out = "1 crowds, 1 annotations without a box of at least a pixel, 1 objects outside their image"
    assert f"1 labelled objects; left out: {left_out}" in report


@pytest.mark.parametrize(
    ("orientations", "sizes", "objects", "frames", "words"),
    [
        ([6, 1, 1], [(50, 40)] * 3, [0, 1], (1, 1, 0, 0), "1 images are turned upright by EXIF; the boxes of 1 were turned with them"),
        ([6, 8, 6], [(50, 40), (40, 50), (50, 40)], [0, 1], (3, 1, 1, 0), "3 images are turned upright by EXIF; the boxes of 1 were turned with them; the boxes of 1 were upright already"),
        ([1, 6, 3], [(0, 0)] * 3, [0], (2, 0, 0, 0), "2 images are turned upright by EXIF"),
        ([1, 1, 1], [(50, 40), (500, 400), (50, 39)], [0], (0, 0, 0, 2), "2 images have another size than their annotations say"),
        ([1, 1, 1], [(50, 40)] * 3, [0], (0, 0, 0, 0), ""),
    ],
)  # fmt: skip
def test_turned_images_and_wrong_sizes_are_counted(
    tmp_path, capsys, small_recipe, orientations, sizes, objects, frames, words
):
    (tmp_path / "coco" / "val2017").mkdir(parents=True)
    for number, orientation in enumerate(orientations):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (50, 40)).save(tmp_path / "coco" / "val2017" / f"{number}.jpg", exif=exif)
    listed = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": w, "height": h} for n, (w, h) in enumerate(sizes)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": image, "category_id": 1, "bbox": [1, 1, 20, 20]} for image in objects],
    }
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(listed))
    (tmp_path / "small.toml").write_text(small_recipe)
    sets = ["--set", f"source={{use='coco', root='{tmp_path / 'coco'}', split='val2017'}}"]
    assert main(["data", "check", str(tmp_path / "small.toml"), *sets]) == 0
    assert capsys.readouterr().out.split("objects\n")[1].split() == words.split()
    assert main(["data", "check", str(tmp_path / "small.toml"), *sets, "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["frames"]
    assert counted == dict(zip(("turned", "boxes_turned", "boxes_upright", "wrong_sizes"), frames, strict=True))
