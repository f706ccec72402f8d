"""`sslkit data check` on folders and recipes."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from sslkit.__main__ import main


@pytest.fixture
def photos(tmp_path):
    """Four photos, of which one is empty."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"")
    return folder


def test_a_folder_is_checked_and_the_list_written(photos, tmp_path, capsys):
    assert main(["data", "check", str(photos), "--out", str(tmp_path / "bad.json")]) == 5
    told = capsys.readouterr().out
    assert "c.png is empty (0 bytes)" in told
    assert "1 of 4 images cannot be used; the list is in" in told
    assert json.loads((tmp_path / "bad.json").read_text()) == [
        {"image": 2, "key": "c.png", "reason": "c.png is empty (0 bytes)"}
    ]


def test_a_name_that_is_no_text_is_told(photos, tmp_path, capsys):
    (photos / "c.png").rename(photos / os.fsdecode(b"odd \xff.png"))
    assert main(["data", "check", str(photos), "--out", str(tmp_path / "bad.json")]) == 5
    assert r"odd \udcff.png is empty" in capsys.readouterr().out
    assert json.loads((tmp_path / "bad.json").read_text())[0]["key"] == "odd \udcff.png"


def test_a_good_folder_ends_with_zero(photos, capsys):
    (photos / "c.png").unlink()
    assert main(["data", "check", str(photos)]) == 0
    assert "all 3 images can be used" in capsys.readouterr().out


def test_a_recipe_decides_what_is_too_small(photos, tmp_path, capsys, small_recipe):
    (tmp_path / "small.toml").write_text("min_image_side = 41\n" + small_recipe)
    sets = ["--set", f"source={{use='folder', root='{photos}'}}", "--json"]
    assert main(["data", "check", str(tmp_path / "small.toml"), *sets]) == 5
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 4
    assert [row["key"] for row in found["bad"]] == ["a.png", "b.png", "c.png", "d.png"]
    assert main(["data", "check", str(tmp_path / "small.toml"), *sets, "--min-side", "40"]) == 5
    assert [row["key"] for row in json.loads(capsys.readouterr().out)["bad"]] == ["c.png"]


def test_what_is_not_there_is_told(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "nothing")]) == 3
    assert "nothing" in capsys.readouterr().err


def test_a_list_that_cannot_be_written_is_told(photos, tmp_path, capsys):
    assert main(["data", "check", str(photos), "--out", str(tmp_path / "no" / "bad.json")]) == 1
    assert "cannot write" in (told := capsys.readouterr().err)
    assert "Traceback" not in told
