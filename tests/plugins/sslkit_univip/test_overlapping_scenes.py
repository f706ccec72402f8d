"""The sampler: its guarantees for any image and any proposals, and how often it succeeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sslkit.api import Sample
from sslkit.boxes import Boxes, empty, inside, iou
from sslkit_univip.crops import intersect, pull, shortest_sides
from sslkit_univip.overlapping_scenes import COUNTS, OverlappingScenes


def proposals(count: int, height: int, width: int, seed: int = 0, least: int = 64) -> Boxes:
    """Boxes of log-uniform size anywhere in the image."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(least), np.log(min(height, width)), (count, 2)))
    corner = rng.random((count, 2)) * ((width, height) - size)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def draw(height: int, width: int, boxes: Boxes, seed: int = 0, **options: Any) -> Sample:
    return OverlappingScenes(**options).sample(height, width, boxes, np.random.default_rng(seed))


def overlap(sample: Sample) -> Boxes:
    first, second = sample.boxes["scene"].astype(np.float64)
    return intersect(first, second).astype(np.float32)


def check(sample: Sample, height: int, width: int, instances: int) -> None:
    """Check what the sampler guarantees for every image."""
    scene, instance = sample.boxes["scene"], sample.boxes["instance"]
    assert scene.shape == (2, 4)
    assert instance.shape == (instances, 4)
    assert scene.dtype == instance.dtype == np.float32
    for boxes in (scene, instance):
        assert inside(boxes, (0, 0, width, height)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert inside(instance, scene[0]).all()
    assert inside(instance, scene[1]).all()
    assert tuple(sample.counts) == COUNTS
    assert sample.counts["fallback"] in (0, 1)
    assert sample.counts["filled"] <= instances * sample.counts["fallback"]


@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    raw=arrays(np.float32, st.tuples(st.integers(0, 40), st.just(4)), elements=st.floats(0, 1, width=32)),
    instances=st.integers(1, 6),
    attempts=st.integers(1, 30),
    choose=st.sampled_from(["random", "first"]),
    order=st.sampled_from(["list", "random"]),
    jitter=st.booleans(),
    seed=st.integers(0, 999),
)
@example(1, 12_000, np.zeros((0, 4), np.float32), 4, 20, "random", "list", False, 0)
@example(12_000, 900, np.zeros((0, 4), np.float32), 4, 20, "random", "list", True, 0)
@example(20, 20, np.zeros((0, 4), np.float32), 4, 20, "random", "list", False, 0)
@example(1, 1, np.array([[0, 0, 1, 1]] * 9, np.float32), 4, 20, "first", "random", True, 0)
@settings(max_examples=200, deadline=None)
def test_guarantees_hold_for_any_image(
    height: int, width: int, raw: Boxes, instances: int, attempts: int, choose: str, order: str, jitter: bool, seed: int
) -> None:
    """Proposals here may be inverted, flat or thinner than a pixel."""
    boxes = (raw * np.array([width, height, width, height])).astype(np.float32)
    options = {"instances": instances, "attempts": attempts, "choose": choose, "order": order, "jitter": jitter}
    sample = draw(height, width, boxes, seed, **options)
    check(sample, height, width, instances)
    assert 1 <= sample.counts["draws"] <= attempts


@pytest.mark.parametrize("seed", range(30))
def test_a_success_uses_only_proposals(seed: int) -> None:
    candidates = proposals(60, 480, 640, seed)
    sample = draw(480, 640, candidates, seed)
    check(sample, 480, 640, 4)
    assert sample.counts["fallback"] == 0
    assert {tuple(box) for box in sample.boxes["instance"]} <= {tuple(box) for box in candidates}
    assert len({tuple(box) for box in sample.boxes["instance"]}) == 4
    assert shortest_sides(overlap(sample).astype(np.float64)) >= 86


def test_same_generator_same_boxes() -> None:
    boxes = proposals(20, 480, 640)
    one, two, other = (draw(480, 640, boxes, seed) for seed in (5, 5, 6))
    for group in one.boxes:
        np.testing.assert_array_equal(one.boxes[group], two.boxes[group])
    assert one.counts == two.counts
    assert (one.boxes["scene"] != other.boxes["scene"]).any()


def test_scenes_do_not_depend_on_which_boxes_are_chosen() -> None:
    boxes = proposals(60, 480, 640)
    one, two = (draw(480, 640, boxes, 3, choose=choose) for choose in ("random", "first"))
    np.testing.assert_array_equal(one.boxes["scene"], two.boxes["scene"])


def test_first_uses_the_first_in_list_order() -> None:
    boxes = proposals(60, 480, 640)
    sample = draw(480, 640, boxes, 3, choose="first")
    contained = boxes[inside(boxes, overlap(sample))]
    assert len(contained) > 4
    np.testing.assert_array_equal(sample.boxes["instance"], contained[:4])


def test_random_uses_every_box_about_equally_often_and_in_list_order() -> None:
    boxes = np.array([[100 + 5 * i, 100, 200 + 5 * i, 200] for i in range(8)], np.float32)
    seen = np.zeros(8)
    for seed in range(400):
        chosen = draw(300, 340, boxes, seed, scale=(1.0, 1.0), ratio=(1.0, 1.2)).boxes["instance"]
        places = [int((box[0] - 100) / 5) for box in chosen]
        assert places == sorted(places)
        seen[places] += 1
    assert seen.sum() == 1600
    assert seen.min() > 150
    assert seen.max() < 250


def test_random_order_shuffles_the_same_boxes() -> None:
    boxes = proposals(60, 480, 640)
    listed = [draw(480, 640, boxes, seed) for seed in range(10)]
    mixed = [draw(480, 640, boxes, seed, order="random") for seed in range(10)]
    for one, two in zip(listed, mixed, strict=True):
        assert {tuple(b) for b in one.boxes["instance"]} == {tuple(b) for b in two.boxes["instance"]}
    assert any((a.boxes["instance"] != b.boxes["instance"]).any() for a, b in zip(listed, mixed, strict=True))


def test_fallback_uses_the_attempt_with_most_proposals_and_keeps_them() -> None:
    """Three proposals for four instances: no attempt can succeed, and the best contains as many of the three as any."""
    boxes = proposals(3, 480, 640, seed=2)
    sampler = OverlappingScenes()
    for seed in range(30):
        sample = sampler.sample(480, 640, boxes, np.random.default_rng(seed))
        attempts = sampler._draw_attempts(480, 640, boxes.astype(np.float64), 86, np.random.default_rng(seed))
        most = int((attempts.inside.sum(1) * attempts.large).max())
        contained = boxes[inside(boxes, overlap(sample))]
        assert len(contained) == most
        assert sample.counts["filled"] == 4 - most
        np.testing.assert_array_equal(sample.boxes["instance"][:most], contained)
        assert sample.counts["draws"] == 20
        assert sample.counts["fallback"] == 1


@pytest.mark.parametrize("seed", range(10))
def test_random_boxes_satisfy_the_constraints_where_possible(seed: int) -> None:
    sample = draw(1000, 1000, empty(), seed, scale=(0.6, 1.0))
    boxes = sample.boxes["instance"]
    size = boxes[:, 2:] - boxes[:, :2]
    assert sample.counts["relaxed"] == 0
    assert sample.counts["filled"] == 4
    assert size.min() >= 64
    assert (size.max(1) <= 3 * size.min(1)).all()
    assert max(iou(boxes[i], boxes[:i]).max() for i in range(1, 4)) <= 0.5


def test_an_overlap_that_is_too_small_is_a_failed_attempt() -> None:
    """All proposals lie within 60 px: no attempt with an overlap that small may succeed."""
    boxes = np.array([[100 + i, 100, 160, 160 - i] for i in range(8)], np.float32)
    for seed in range(40):
        sample = draw(480, 640, boxes, seed, scale=(0.02, 0.1))
        assert shortest_sides(overlap(sample).astype(np.float64)) >= 86 or sample.counts["moved"] == 1


def test_scenes_that_never_overlap_are_moved_together() -> None:
    moved = []
    for seed in range(60):
        sample = draw(600, 6000, empty(), seed, attempts=1, scale=(0.02, 0.03))
        check(sample, 600, 6000, 4)
        moved.append(sample.counts["moved"])
        assert shortest_sides(overlap(sample).astype(np.float64)) >= 86
    assert 0.5 < np.mean(moved) <= 1


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((50, 0, 60, 10), (6, 0, 16, 10)),  # from the right
        ((0, 40, 10, 50), (0, 6, 10, 16)),  # from below
        ((3, 3, 13, 13), (3, 3, 13, 13)),  # close enough
        ((20, 20, 22, 22), (8, 8, 10, 10)),  # smaller than `min_overlap`
    ],
)
def test_pull_moves_no_further_than_needed(box: tuple[int, ...], expected: tuple[int, ...]) -> None:
    towards = np.array([0, 0, 10, 10], np.float64)
    assert tuple(pull(np.array(box, np.float64), towards, 4)) == expected


@pytest.mark.parametrize(("side", "least"), [(20, 10), (100, 50), (172, 86), (4000, 86), (1, 1)])
def test_thresholds_shrink_with_small_images(side: int, least: int) -> None:
    assert OverlappingScenes()._overlap_side(side, 5000) == least
    rules = OverlappingScenes()._scaled_constraints(least)
    assert rules.min_side == pytest.approx(max(1, 64 * least / 86))


def test_thresholds_are_options() -> None:
    """A working scale of 160 px with proposals of 16 px and more, as in the quickstart."""
    options = {"min_overlap": 32, "min_side": 16}
    counts = [draw(160, 160, proposals(30, 160, 160, s, least=16), s, **options).counts for s in range(100)]
    assert np.mean([c["fallback"] for c in counts]) < 0.05


@pytest.mark.parametrize(("count", "low", "high"), [(0, 1, 1), (10, 0.3, 0.55), (40, 0, 0.03)])
def test_rate_of_fallbacks(count: int, low: float, high: float) -> None:
    """As an earlier simulation of such boxes at 640 x 480 gave: about 41 % with 10 boxes, none with 40."""
    counts = [draw(480, 640, proposals(count, 480, 640, seed), seed).counts for seed in range(200)]
    assert low <= np.mean([c["fallback"] for c in counts]) <= high


def test_one_instance_of_a_single_proposal() -> None:
    box = np.array([[10, 10, 30, 30]], np.float32)
    sample = draw(40, 40, box, instances=1)
    np.testing.assert_array_equal(sample.boxes["instance"], box)


def test_groups_and_bad_ranges() -> None:
    assert OverlappingScenes(instances=7).groups == {"scene": 2, "instance": 7}
    assert OverlappingScenes.needs_proposals
    with pytest.raises(ValueError, match=r"scale = \[1.0, 0.1\]: the minimum comes first; write \[0.1, 1.0\]"):
        OverlappingScenes(scale=(1.0, 0.1))
    with pytest.raises(ValueError, match="ratio"):
        OverlappingScenes(ratio=(2.0, 0.5))
