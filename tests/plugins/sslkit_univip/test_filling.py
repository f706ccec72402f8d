"""Random boxes inside a region, and jitter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.boxes import iou
from sslkit.crops import FloatBoxes
from sslkit_univip.filling import LEVELS, Constraints, draw_candidates, fill, jitter_boxes

LIMITS = Constraints(64, 3.0, 0.5)
NONE = np.zeros((0, 4))


def box(*corners: float) -> FloatBoxes:
    return np.array(corners, np.float64)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def overlap(boxes: FloatBoxes) -> float:
    """Return the largest IoU of any two boxes."""
    pairs = [iou(boxes[i], boxes[:i].astype(np.float32)).max() for i in range(1, len(boxes))]
    return float(max(pairs, default=0))


@pytest.mark.parametrize("seed", range(20))
def test_every_constraint_holds_where_there_is_room(seed: int) -> None:
    region = box(10, 20, 410, 320)
    boxes, level = fill(NONE, region, 4, LIMITS, rng(seed))
    size = boxes[:, 2:] - boxes[:, :2]
    assert level == 0
    assert size.min() >= 64
    assert (size.max(1) <= 3 * size.min(1)).all()
    assert overlap(boxes) <= 0.5


def test_existing_boxes_stay_first_and_new_ones_avoid_them() -> None:
    region, existing = box(0, 0, 400, 400), np.array([box(0, 0, 390.5, 400), box(3, 3, 80, 80)])
    boxes, _ = fill(existing, region, 4, LIMITS, rng())
    np.testing.assert_array_equal(boxes[:2], existing)
    assert overlap(boxes) <= 0.5


def test_a_complete_list_is_unchanged() -> None:
    full = np.array([box(0, 0, 9, 9)] * 4)
    boxes, level = fill(full, box(0, 0, 99, 99), 4, LIMITS, rng())
    assert (boxes == full).all()
    assert level == 0


def test_constraints_relax_in_the_documented_order() -> None:
    sides = [LIMITS.relaxed(level).min_side for level in range(LEVELS)]
    assert sides == [64, 32, 16, 1, 1]
    assert [LIMITS.relaxed(level).max_aspect for level in range(LEVELS)] == [3, 3, 3, np.inf, np.inf]
    assert [LIMITS.relaxed(level).max_iou for level in range(LEVELS)] == [0.5, 0.5, 0.5, 0.5, 1]


@pytest.mark.parametrize(
    ("region", "level"),
    [((0, 0, 63, 63), 1), ((0, 0, 31, 31), 2), ((0, 0, 200, 12), 3), ((5, 5, 6, 6), 4)],
)
def test_constraints_relax_no_further_than_needed(region: tuple[int, int, int, int], level: int) -> None:
    assert fill(NONE, box(*region), 2, LIMITS, rng())[1] == level


def test_more_boxes_than_candidates() -> None:
    boxes, level = fill(NONE, box(2, 2, 4, 3), 500, LIMITS, rng())
    assert boxes.shape == (500, 4)
    assert level == LEVELS - 1


@given(
    left=st.integers(0, 50),
    top=st.integers(0, 50),
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    count=st.integers(1, 9),
    side=st.integers(1, 200),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_always_complete_and_inside(
    left: int, top: int, width: int, height: int, count: int, side: int, seed: int
) -> None:
    region = box(left, top, left + width, top + height)
    boxes, level = fill(NONE, region, count, Constraints(side, 3.0, 0.5), rng(seed))
    assert boxes.shape == (count, 4)
    assert 0 <= level < LEVELS
    assert (boxes[:, :2] >= region[:2]).all()
    assert (boxes[:, 2:] <= region[2:]).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert level == LEVELS - 1 or overlap(boxes) <= 0.5


def test_candidates_reach_every_edge() -> None:
    region = box(3, 4, 10, 12)
    boxes = np.concatenate([draw_candidates(region, Constraints(1, np.inf, 1), rng(seed)) for seed in range(40)])
    np.testing.assert_array_equal([*boxes.min(0)[:2], *boxes.max(0)[2:]], region)


@pytest.mark.parametrize("seed", range(10))
def test_jittered_boxes_overlap_the_old_ones_and_stay_inside(seed: int) -> None:
    region, old = box(0, 0, 300, 200), np.array([box(20, 30, 120, 130), box(200, 100, 300, 200)])
    new = jitter_boxes(old, region, rng(seed))
    assert (new != old).any(axis=1).all()
    assert all(iou(a, b[None].astype(np.float32))[0] > 0.5 for a, b in zip(old, new, strict=True))
    assert (new[:, :2] >= 0).all()
    assert (new[:, 2:] <= (300, 200)).all()


def test_a_box_that_cannot_move_is_unchanged() -> None:
    old = np.array([box(5, 5, 6, 6)])
    np.testing.assert_array_equal(jitter_boxes(old, box(5, 5, 6, 6), rng()), old)
