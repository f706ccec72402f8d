"""Every image is looked at, also behind one that ends the process that decodes it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslkit.data.scan import scan
from sslkit_images.folder import Folder


class Deadly(Folder):
    """Some of its photos end the process that reads them, as a fault in a decoder does."""

    def __init__(self, deadly: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self.deadly = deadly
        self.home = os.getpid()

    def read(self, index: int) -> bytes:
        if index in self.deadly and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seventy small photos: one empty, one cut short, one that is text, one narrow."""
    rng = np.random.default_rng(0)
    for number in range(70):
        size = (40, 4, 3) if number == 50 else (40, 50, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / f"{number:02d}.jpg")
    (tmp_path / "03.jpg").write_bytes(b"")
    (tmp_path / "33.jpg").write_bytes((tmp_path / "33.jpg").read_bytes()[:400])
    (tmp_path / "69.jpg").write_text("no photo")
    return tmp_path


def opened(folder: Path, *deadly: int) -> Deadly:
    made = Deadly(deadly, root=folder)
    made.open()
    return made


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_cannot_be_used_is_found_in_order_with_the_reason(photos: Path, jobs: int) -> None:
    told: list[tuple[int, int]] = []
    found = scan(opened(photos), 8, jobs, lambda _, done, total: told.append((done, total)))
    assert [image for image, _ in found] == [3, 33, 50, 69]
    words = ["is empty", "cannot be decoded", "is 4 x 40 pixels, and min_image_side = 8", "is no image"]
    for (image, reason), expected in zip(found, words, strict=True):
        assert reason.startswith(f"{image:02d}.jpg")
        assert expected in reason
    assert told[0] == (0, 70)
    assert told[-1] == (70, 70)
    assert told == sorted(told)


def test_good_images_are_none_of_them(photos: Path) -> None:
    for name in ("03", "33", "50", "69"):
        (photos / f"{name}.jpg").unlink()
    assert scan(opened(photos), 8, 2) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_that_ends_the_process_is_named_and_the_others_are_looked_at(photos: Path, jobs: int) -> None:
    found = dict(scan(opened(photos, 5, 66), 8, jobs))
    assert found.keys() == {3, 5, 33, 50, 66, 69}
    assert found[5] == "05.jpg ends the process that decodes it"
