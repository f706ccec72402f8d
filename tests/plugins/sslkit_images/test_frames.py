"""Boxes of stored and of upright pixels: both end in the frame of the upright image, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sslkit.boxes import from_xywh
from sslkit.errors import DataError
from sslkit.images import Header
from sslkit_images.frames import header_of, place, upright_boxes

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
@pytest.mark.parametrize("frame", ["auto", "stored", "upright"])
def test_a_size_that_fits_neither_is_refused_whatever_the_frame(declared, frame):
    with pytest.raises(DataError, match=rf"a\.jpg has 96 x 48 pixels, but .* of {declared[1]} x {declared[0]}"):
        upright(Header(48, 96, 1), declared, frame)


@pytest.mark.parametrize("declared", [(0, 0), (0, 640), (480, 0), (48, 96), (96, 48)])
def test_a_size_that_fits_or_says_nothing_is_no_matter_if_the_frame_is_given(declared):
    assert upright(Header(48, 96, 6), declared, "upright") == BOX.tolist()
    assert upright(Header(48, 96, 6), declared, "stored") == [[34, 4, 44, 24]]


def test_boxes_are_clipped_and_those_outside_are_not_shown():
    boxes = np.array(
        [[-5, -5, 10, 10], [90, 40, 200, 200], [96, 0, 99, 9], [-9, 3, 0, 9], [200, 200, 230, 230]], np.float32
    )
    assert upright(Header(48, 96, 1), (48, 96), boxes=boxes) == [[0, 0, 10, 10], [90, 40, 96, 48]]
    assert upright(None, (48, 96), boxes=boxes) == [[0, 0, 10, 10], [90, 40, 96, 48]]
    assert len(upright(None, (0, 0), boxes=boxes)) == 4


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ([95.999, 0, 140, 40], False), ([0, -40, 40, 0.5], False), ([-9, 47.2, 50, 60], False), ([-3, -3, 0.1, 0.1], False),
        ([95, 0, 140, 40], True), ([0, -40, 40, 1], True), ([20.3, 5.7, 21.3, 6.7], True), ([90.1, 40.1, 91.1, 41.1], True),
    ],
)  # fmt: skip
def test_less_than_a_pixel_of_a_box_shows_nothing(box, shown):
    found = upright(Header(48, 96, 1), (48, 96), boxes=np.array([box], np.float32))
    assert len(found) == shown


@pytest.mark.parametrize("box", [[1.1, 3, 1, 1], [7.3, 15.9, 1, 1], [63.7, 31.6, 1, 1], [20, 15.2, 4, 1]])
def test_a_pixel_is_shown_wherever_it_lies(box):
    assert len(upright(Header(48, 96, 1), (48, 96), boxes=from_xywh(box))) == 1


def saved(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (96, 48)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("orientation", "declared", "frame", "turned"),
    [
        (6, (48, 96), "auto", True), (6, (96, 48), "auto", False), (1, (48, 96), "auto", False),
        (1, (48, 96), "stored", False), (3, (48, 96), "stored", True), (3, (0, 0), "upright", False),
    ],
)  # fmt: skip
def test_boxes_that_are_turned_are_told(tmp_path, orientation, declared, frame, turned):
    placed = place(BOX, saved(tmp_path / "a.png", orientation), declared, frame)
    assert (placed.turned, placed.wrong_size, placed.shown.tolist()) == (turned, False, [True])


@pytest.mark.parametrize(
    ("declared", "wrong"),
    [((480, 640), True), ((48, 95), True), ((48, 96), False), ((96, 48), False), ((0, 640), False)],
)
def test_without_boxes_a_size_that_does_not_fit_is_told(tmp_path, declared, wrong):
    placed = place(BOX[:0], saved(tmp_path / "a.png", 6), declared, "auto")
    assert (placed.turned, placed.wrong_size, len(placed.boxes)) == (False, wrong, 0)
    assert not place(BOX[:0], tmp_path / "none.png", declared, "auto").wrong_size


def test_a_header_that_cannot_be_read_is_none(tmp_path):
    assert header_of(tmp_path / "none.jpg") is None
    (tmp_path / "text.jpg").write_text("text")
    assert header_of(tmp_path / "text.jpg") is None
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    assert header_of(tmp_path / "a.png") == Header(7, 9, 1)
