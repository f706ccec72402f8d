"""Boxes are turned with their image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from sslkit import images
from sslkit.orientation import turned

HEIGHT, WIDTH = 40, 70
BOXES = np.array([[3, 5, 20, 14], [50, 0, 70, 40], [0, 31, 6, 40]], np.float32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_box_shows_what_it_showed(orientation):
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for value, (left, top, right, bottom) in enumerate(BOXES.astype(int), 1):
        stored[top:bottom, left:right] = 60 * value
    exif = Pillow.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    Pillow.fromarray(stored).save(file, "PNG", exif=exif)
    upright = images.decode(file.getvalue(), "a")
    for value, (left, top, right, bottom) in enumerate(turned(BOXES, HEIGHT, WIDTH, orientation).astype(int), 1):
        assert (upright[top:bottom, left:right] == 60 * value).all()
        assert (upright == 60 * value).sum() == 3 * (bottom - top) * (right - left)


def test_no_boxes_stay_no_boxes():
    assert turned(np.zeros((0, 4), np.float32), 5, 6, 8).shape == (0, 4)
