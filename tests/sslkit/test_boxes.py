import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask

from sslkit import boxes

xywh = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(4)), elements=st.integers(1, 200).map(float))


@given(xywh)
def test_formats_round_trip(array):
    np.testing.assert_array_equal(boxes.to_xywh(boxes.from_xywh(array)), array)


def test_one_flat_box_is_a_list_of_one():
    np.testing.assert_array_equal(boxes.from_xywh([1, 2, 3, 4]), [[1, 2, 4, 6]])
    assert boxes.from_xywh([]).shape == (0, 4)


@given(xywh, xywh)
def test_iou_agrees_with_pycocotools(a, b):
    expected = mask.iou(a, b, np.zeros(len(b)))
    ours = np.stack([boxes.iou(box, boxes.from_xywh(b)) for box in boxes.from_xywh(a)])
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_iou_of_empty_boxes_is_zero():
    assert boxes.iou([3, 3, 3, 3], np.array([[3, 3, 3, 3], [0, 0, 9, 9]], np.float32)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 10, 10), True), ((1, 1, 9, 9), True), ((-1, 0, 9, 9), False), ((0, 0, 10, 10.5), False)],
)
def test_inside_takes_the_edges_in(box, expected):
    assert boxes.inside(np.array([box], np.float32), (0, 0, 10, 10)).tolist() == [expected]


def test_clip_and_areas():
    clipped = boxes.clip(np.array([[-5, 2, 30, 50]], np.float32), height=20, width=10)
    np.testing.assert_array_equal(clipped, [[0, 2, 10, 20]])
    assert boxes.areas(clipped).tolist() == [180]
    assert boxes.areas(np.array([[5, 5, 3, 9]], np.float32)).tolist() == [0]


def test_what_is_not_within_an_image_by_a_pixel_is_left_out():
    several = [[1, 2, 30, 20], [-9, -9, -1, -1], [50, 0, 60, 9], [5, 5, 5, 9], [np.nan, 0, 9, 9], [40, 30, 99, np.inf]]
    clipped = boxes.within(np.array(several, np.float32), 40, 48)
    assert clipped.tolist() == [[1, 2, 30, 20], [40, 30, 48, 40]]
    assert clipped.dtype == np.float32
    assert boxes.within(boxes.empty(), 40, 48).shape == (0, 4)
