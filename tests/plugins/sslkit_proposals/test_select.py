import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask

from sslkit_proposals.select import FIRST, SHRUNK, WHOLE, Rules, _iou, order_regions, select, suppress_overlaps


def pixel_iou(a, b):
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union


def plain_filter(boxes, min_side, max_aspect, max_iou, top):
    """The published filter in plain Python: size, shape, overlap with selected boxes, then the first `top`."""
    selected = []
    for box in boxes:
        width, height = box[2] - box[0], box[3] - box[1]
        if width < min_side or height < min_side:
            continue
        if width / height > max_aspect or height / width > max_aspect:
            continue
        if selected and max(pixel_iou(box, other) for other in selected) > max_iou:
            continue
        selected.append(box)
    return selected[:top]


def plain_select(boxes, height, width, rules):
    short = min(height, width)
    sides = rules.min_sides if short >= rules.min_sides[-1] else (short / 2,)
    tries = []
    for side in sides:
        tries.append(plain_filter(boxes, side, rules.max_aspect, rules.max_iou, rules.top))
        if len(tries[-1]) >= rules.enough:
            return tries[-1]
    most = max(map(len, tries))
    return next(t for t in tries if len(t) == most) if most else boxes[:1] or [(0, 0, width, height)]


@st.composite
def images(draw):
    width, height = draw(st.integers(8, 300)), draw(st.integers(8, 300))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    corners = np.sort(rng.random((draw(st.integers(0, 60)), 2, 2)), axis=1)
    low = np.floor(corners[:, 0] * [width, height])
    high = np.maximum(np.ceil(corners[:, 1] * [width, height]), low + 1)
    return np.concatenate([low, high], axis=1).astype(np.int64), height, width


@given(
    images(),
    st.sampled_from([(96, 64), (64,), (100, 50, 20)]),
    st.sampled_from([None, 1, 3, 100]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.sampled_from([1, 4]),
)
@settings(max_examples=200, deadline=None)
def test_selection_agrees_with_the_filter_in_plain_python(image, min_sides, top, max_iou, max_aspect, enough):
    raw, height, width = image
    rules = Rules(min_sides, enough, max_aspect, max_iou, top, "stored")
    ours = select(raw, height, width, rules).boxes.tolist()
    assert ours == [list(box) for box in plain_select(raw.tolist(), height, width, rules)]


@given(images())
@settings(max_examples=30, deadline=None)
def test_overlaps_agree_with_pycocotools(image):
    raw = image[0]
    xywh = np.concatenate([raw[:, :2], raw[:, 2:] - raw[:, :2]], axis=1).astype(float)
    areas = (raw[:, 2:] - raw[:, :2]).prod(axis=1)
    for box, area, row in zip(raw, areas, xywh, strict=True):
        reference = mask.iou(row[None], xywh, [0] * len(raw))[0]
        np.testing.assert_allclose(_iou(box, area, raw, areas), reference, rtol=1e-12)


def box(left, top, width, height):
    return [left, top, left + width, top + height]


def test_an_overlap_of_exactly_the_limit_is_kept():
    boxes = np.array([box(0, 0, 100, 100), box(0, 0, 100, 50), box(0, 0, 100, 51)])
    assert suppress_overlaps(boxes, 0.5).tolist() == [0, 1]


def test_the_second_minimum_side_starts_from_the_raw_regions():
    raw = np.array(
        [box(0, 0, 80, 130), box(0, 0, 100, 130), box(200, 0, 70, 70), box(300, 0, 70, 70), box(400, 0, 70, 70)]
    )
    first = select(raw, 480, 640, Rules(enough=1, order="stored"))
    assert (first.boxes.tolist(), first.rung) == ([raw[1].tolist()], 0)
    both = select(raw, 480, 640, Rules(order="stored"))
    assert (both.boxes.tolist(), both.rung) == (raw[[0, 2, 3, 4]].tolist(), 1)


def test_the_side_that_leaves_most_wins_when_none_leaves_enough():
    big = [box(0, 0, 96, 96), box(45, 0, 96, 96)]
    raw = np.array([box(18, 0, 95, 96), *big])
    selection = select(raw, 480, 640, Rules(order="stored"))
    assert (selection.boxes.tolist(), selection.rung) == (big, 0)


def test_the_first_region_is_selected_when_none_remains():
    raw = np.array([box(5, 6, 10, 11), box(0, 0, 640, 20)])
    selection = select(raw, 480, 640, Rules(order="stored"))
    assert (selection.boxes.tolist(), selection.rung) == (raw[:1].tolist(), FIRST)


def test_the_whole_image_is_selected_without_regions():
    selection = select(np.zeros((0, 4), np.int64), 480, 640, Rules())
    assert (selection.boxes.tolist(), selection.rung) == ([[0, 0, 640, 480]], WHOLE)


def test_a_small_image_gets_half_its_short_side_as_minimum():
    raw = np.array([box(0, 0, 9, 9), box(0, 0, 10, 10), box(0, 0, 20, 20)])
    selection = select(raw, 20, 30, Rules(order="stored"))
    assert (selection.boxes.tolist(), selection.rung) == (raw[1:].tolist(), SHRUNK)


def many(count=4000):
    rng = np.random.default_rng(1)
    low = rng.integers(0, 200, (count, 2))
    return np.concatenate([low, low + rng.integers(1, 400, (count, 2))], axis=1)


def test_orders_by_size_are_stable():
    raw = many()
    area = (raw[:, 2:] - raw[:, :2]).prod(axis=1)
    rows = raw.tolist()
    by_size = sorted(range(len(rows)), key=lambda at: area[at])
    assert order_regions(raw, Rules(order="small-first")).tolist() == [rows[at] for at in by_size]
    by_size = sorted(range(len(rows)), key=lambda at: -area[at])
    assert order_regions(raw, Rules(order="large-first")).tolist() == [rows[at] for at in by_size]


def test_the_random_order_is_a_seeded_permutation_that_prefers_small_regions():
    raw = many()
    ours = order_regions(raw, Rules())
    assert np.array_equal(np.sort(ours, axis=0), np.sort(raw, axis=0))
    assert np.array_equal(ours, order_regions(raw, Rules()))
    assert not np.array_equal(ours, order_regions(raw, Rules(seed=1)))
    sizes = np.log2((ours[:, 2:] - ours[:, :2]).prod(axis=1))
    assert sizes[:1000].mean() < sizes[-1000:].mean() - 1


def test_the_random_order_follows_its_formula():
    raw = many(50)
    chance = np.random.default_rng([7, zlib.crc32(raw.astype("<i4").tobytes())]).random(50)
    area = (raw[:, 2:] - raw[:, :2]).prod(axis=1)
    rank = chance * (1 + np.log2(np.maximum(area, 100) / 100))
    assert order_regions(raw, Rules(seed=7)).tolist() == raw[np.argsort(rank)].tolist()
