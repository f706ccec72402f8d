"""Every image is checked, also after one that crashes the process that decodes it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslkit.api import Objects
from sslkit.contracts.sources import CheckedSource
from sslkit.data.scan import scan
from sslkit.errors import PluginError
from sslkit.plugins import Component, Owner
from sslkit_images.folder import Folder
from tests.conftest import Dots


class CrashingFolder(Folder):
    """A folder in which some images crash the process that reads them, as a fault in a decoder does."""

    def __init__(self, crashing: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self.crashing = crashing
        self.home = os.getpid()

    def read(self, index: int) -> bytes:
        if index in self.crashing and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seventy small images: one empty, one cut short, one that is text, one narrow."""
    rng = np.random.default_rng(0)
    for number in range(70):
        size = (40, 4, 3) if number == 50 else (40, 50, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / f"{number:02d}.jpg")
    (tmp_path / "03.jpg").write_bytes(b"")
    (tmp_path / "33.jpg").write_bytes((tmp_path / "33.jpg").read_bytes()[:400])
    (tmp_path / "69.jpg").write_text("not an image")
    return tmp_path


def opened(folder: Path, *crashing: int) -> CrashingFolder:
    source = CrashingFolder(crashing, root=folder)
    source.open()
    return source


@pytest.mark.parametrize("jobs", [1, 3])
def test_bad_images_are_listed_in_order_with_reasons(folder: Path, jobs: int) -> None:
    progress: list[tuple[int, int]] = []
    bad = scan(opened(folder), 8, jobs, lambda _, done, total: progress.append((done, total))).bad
    assert [image for image, _ in bad] == [3, 33, 50, 69]
    words = ["is empty", "cannot be decoded", "is 4 x 40 pixels, and min_image_side = 8", "is not an image"]
    for (image, reason), expected in zip(bad, words, strict=True):
        assert reason.startswith(f"{image:02d}.jpg")
        assert expected in reason
    assert progress[0] == (0, 70)
    assert progress[-1] == (70, 70)
    assert progress == sorted(progress)


def test_good_images_are_not_listed(folder: Path) -> None:
    for name in ("03", "33", "50", "69"):
        (folder / f"{name}.jpg").unlink()
    assert scan(opened(folder), 8, 2).bad == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_image_that_crashes_the_process_is_named_and_the_others_are_checked(folder: Path, jobs: int) -> None:
    bad = dict(scan(opened(folder, 5, 66), 8, jobs).bad)
    assert bad.keys() == {3, 5, 33, 50, 66, 69}
    assert bad[5] == "05.jpg crashes the process that decodes it"


@pytest.mark.parametrize("jobs", [0, 2])
@pytest.mark.parametrize("box", [[100, 100, 140, 140], [8, 8, 60, 40], [0, 0, 48, 41.5]])
def test_boxes_outside_their_image_are_refused_as_in_a_run(box, jobs):
    boxes = np.array([[0, 0, 9, 9], box], np.float32)
    cls = type(
        "Outside",
        (Dots,),
        {"objects": lambda self, index: Objects(boxes[: 1 + (index == 5)], np.zeros(1 + (index == 5), int))},
    )
    globals()["Outside"] = cls
    cls.__module__, cls.__qualname__ = __name__, "Outside"
    source = CheckedSource(Component("source", "here/outside", cls, Owner("here", "sslkit-here", "1.0")), cls())
    source.open()
    with pytest.raises(
        PluginError, match=r"returned for image 5 the box \[.*\], and the upright image has 48 x 40 pixels"
    ):
        scan(source, 8, jobs)
