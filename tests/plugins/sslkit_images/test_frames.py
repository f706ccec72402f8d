"""Boxes of stored and of upright pixels: both end in the frame of the upright image, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sslkit.errors import DataError
from sslkit.images import Header
from sslkit_images.frames import header_of, upright_boxes

BOX = np.array([[4, 4, 24, 14]], np.float32)
STORED = (48, 96)


def upright(header, declared, frame="auto", boxes=BOX):
    found, shown = upright_boxes(boxes, header, declared, frame, "a.jpg")
    return found[shown].tolist()


def test_the_size_in_the_annotations_tells_the_frame():
    header = Header(48, 96, 6)
    assert upright(header, (48, 96)) == [[34, 4, 44, 24]]
    assert upright(header, (96, 48)) == [[4, 4, 24, 14]]
    assert upright(Header(48, 96, 1), (48, 96)) == upright(Header(48, 96, 1), (0, 0)) == BOX.tolist()


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_size_that_both_have_tells_nothing(orientation):
    header = Header(48, 96, orientation)
    with pytest.raises(DataError, match=rf'orientation \({orientation}\), and .* say a size that both have.*"stored"'):
        upright(header, (48, 96))
    assert upright(header, (48, 96), "upright") == BOX.tolist()
    assert upright(header, (48, 96), "stored") != BOX.tolist()


@pytest.mark.parametrize(("header", "declared"), [(Header(48, 96, 6), (0, 0)), (Header(48, 96, 8), (0, 96))])
def test_without_a_size_a_turned_image_is_refused(header, declared):
    with pytest.raises(DataError, match=r'say no size: write frame = "stored" if'):
        upright(header, declared)


def test_square_images_are_refused_if_they_are_turned():
    assert upright(Header(50, 50, 1), (50, 50)) == BOX.tolist()
    with pytest.raises(DataError, match="a size that both have"):
        upright(Header(50, 50, 5), (50, 50))


@pytest.mark.parametrize("declared", [(24, 48), (96, 48), (48, 97)])
def test_a_size_that_fits_neither_is_refused_unless_the_frame_is_given(declared):
    header = Header(48, 96, 1)
    with pytest.raises(DataError, match=rf"a\.jpg has 96 x 48 pixels, but .* of {declared[1]} x {declared[0]}"):
        upright(header, declared)
    assert upright(header, declared, "upright") == BOX.tolist()


def test_boxes_are_clipped_and_those_outside_are_not_shown():
    boxes = np.array(
        [[-5, -5, 10, 10], [90, 40, 200, 200], [96, 0, 99, 9], [-9, 3, 0, 9], [200, 200, 230, 230]], np.float32
    )
    assert upright(Header(48, 96, 1), (48, 96), boxes=boxes) == [[0, 0, 10, 10], [90, 40, 96, 48]]
    assert upright(None, (48, 96), boxes=boxes) == [[0, 0, 10, 10], [90, 40, 96, 48]]
    assert len(upright(None, (0, 0), boxes=boxes)) == 4


def test_a_header_that_cannot_be_read_is_none(tmp_path):
    assert header_of(tmp_path / "none.jpg") is None
    (tmp_path / "text.jpg").write_text("text")
    assert header_of(tmp_path / "text.jpg") is None
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    assert header_of(tmp_path / "a.png") == Header(7, 9, 1)
