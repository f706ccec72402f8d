"""Rendered scenes: all categories, co-occurrence statistics, and colours that do not reveal the category."""

import cv2
import numpy as np
import pytest

from sslkit import boxes
from sslkit_images.scenes import render as rendering
from sslkit_images.scenes import shapes
from sslkit_images.scenes.backgrounds import KINDS
from sslkit_images.scenes.canvas import SIDE
from sslkit_images.scenes.render import choose_category, render

NAMES = list(shapes.CATEGORIES)


def scene(number, side=112, co_occurrence=0.8, objects=(4, 8)):
    return render(np.random.default_rng([9, number]), side, co_occurrence, objects)


def test_there_are_a_dozen_categories_each_typical_of_some_kind():
    assert len(NAMES) >= 12
    typical = {name for kind in KINDS.values() for name in kind.typical_objects}
    assert typical == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_category_is_drawn_in_many_ways(name):
    drawings = [shapes.draw(name, np.random.default_rng(seed)) for seed in range(4)]
    for colour, mask in drawings:
        assert colour.shape == (SIDE, SIDE, 3)
        assert 0.03 < (mask > 0).mean() < 0.7
        assert len(np.unique(colour[mask > 0], axis=0)) >= 3
    assert len({colour.tobytes() for colour, _ in drawings}) == len({mask.tobytes() for _, mask in drawings}) == 4


def test_all_categories_and_kinds_appear():
    drawn = [scene(number, side=80) for number in range(60)]
    assert {name for one in drawn for name in one.names} == set(NAMES)
    assert {one.kind for one in drawn} == set(KINDS)


def test_the_same_generator_draws_the_same_scene():
    one, other = scene(3), scene(3)
    assert one.pixels.tobytes() == other.pixels.tobytes()
    assert one.names == other.names
    assert all((a == b).all() for a, b in zip(one.masks, other.masks, strict=True))


def test_pixels_do_not_depend_on_opencvs_threads():
    before = cv2.getNumThreads()
    try:
        renderings = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            renderings.append(scene(5).pixels)
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*renderings)


def test_a_nearer_object_hides_what_is_behind_it(monkeypatch):
    """Draw two houses at one place: the second is fully visible, the first only outside it."""
    rng = np.random.default_rng(2)
    pose = rendering._pose(60, np.array([50.0, 80.0]), rng)
    monkeypatch.setattr(rendering, "_pose", lambda *_: pose)
    canvas, owner = np.full((100, 100, 3), 128, np.float32), np.full((100, 100), -1, np.int32)
    whole = [rendering._place(canvas, owner, number, "house", 0.5, 0.4, 0.3, rng) for number in range(2)]
    assert (owner == 1).sum() == whole[1] > 200
    assert (owner == 0).sum() < 0.6 * whole[0]


def test_a_hidden_object_is_not_annotated():
    """In a crowd some objects are hidden. Annotated ones show at least 30 % of their area."""
    drawn = [scene(number, side=80, objects=(25, 25)) for number in range(6)]
    assert all(len(one.names) < 25 for one in drawn)
    assert all(mask.sum() >= 0.3 * 60 for one in drawn for mask in one.masks)


@pytest.mark.parametrize("objects", [(1, 1), (2, 3), (10, 12)])
def test_the_number_of_objects_stays_in_its_range(objects):
    counts = [len(scene(number, objects=objects).names) for number in range(12)]
    assert max(counts) <= objects[1]
    assert max(counts) > objects[0] / 2


# -------------------------------------------------------------------------------------------- co-occurrence


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("co_occurrence", [0.0, 0.5, 1.0])
def test_typical_categories_are_as_frequent_as_documented(kind, co_occurrence):
    """P(a typical one) = c + (1 - c) h / n, with h of n categories typical; each of those is equally frequent."""
    rng, count, typical = np.random.default_rng(1), 2000, KINDS[kind].typical_objects
    drawn = [choose_category(kind, co_occurrence, rng) for _ in range(count)]
    elsewhere = (1 - co_occurrence) / len(NAMES)
    for name in NAMES:
        expected = elsewhere + co_occurrence * (name in typical) / len(typical)
        spread = (expected * (1 - expected) / count) ** 0.5
        assert abs(drawn.count(name) / count - expected) <= 5 * spread


def test_scenes_follow_the_co_occurrence_option():
    shares = []
    for co_occurrence in (0.0, 1.0):
        drawn = [scene(number, side=80, co_occurrence=co_occurrence) for number in range(40)]
        shares.append(np.mean([name in KINDS[one.kind].typical_objects for one in drawn for name in one.names]))
    expected = np.mean([len(kind.typical_objects) for kind in KINDS.values()]) / len(NAMES)
    assert shares[0] == pytest.approx(expected, abs=0.12)
    assert shares[1] == 1


# ------------------------------------------------------------------------------------------------ difficulty


def test_mean_colour_does_not_reveal_the_category():
    """Nearest class mean on an object's mean colour stays close to chance, 1/16."""

    def means(seed):
        rng = np.random.default_rng(seed)
        return np.array([
            [colour[mask > 0].mean(0) for colour, mask in (shapes.draw(name, rng) for _ in range(24))] for name in NAMES
        ])  # fmt: skip

    centres, tested = means(0).mean(1), means(1)
    nearest = np.linalg.norm(tested[:, :, None] - centres, axis=-1).argmin(-1)
    assert (nearest == np.arange(len(NAMES))[:, None]).mean() < 0.25


def test_selective_search_finds_the_objects():
    hits = total = 0
    for number in range(6):
        drawn = scene(number, side=160)
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(drawn.pixels[..., ::-1]))
        search.switchToSelectiveSearchFast()
        regions = boxes.from_xywh(search.process())
        for mask in drawn.masks:
            rows, columns = np.nonzero(mask)
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
            if (box[2:] - box[:2]).min() >= 24:
                hits, total = hits + (boxes.iou(box, regions).max() >= 0.5), total + 1
    assert total > 10
    assert hits / total > 0.7
