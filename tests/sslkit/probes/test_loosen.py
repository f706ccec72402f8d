"""Boxes of objects, shifted and scaled: against the formula written out again, and independent of everything else."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch

from sslkit import images
from sslkit.api import Objects
from sslkit.planning.recipe import LoosenTable, ProbeTable
from sslkit.probes import crops as crops_module
from sslkit.probes.crops import collect_crops
from sslkit.probes.loosen import loosen

BOXES = np.array([[10, 8, 34, 32], [0, 0, 20, 12], [5, 5, 47, 39]], np.float32)
PLACES = np.arange(3)


@pytest.fixture
def source(plugins, monkeypatch):
    """Return the fake source with three objects in each image."""
    source = plugins.find("source", "dots").cls(images=40)
    source.open()
    monkeypatch.setattr(source, "objects", lambda index: Objects(BOXES, np.array([index % 2, 0, 1], np.int64)))
    return source


def table(**values):
    return ProbeTable(use="nearest", size=16, **{"min_side": 8, "loosen": {}, **values})


def by_object(crops):
    """Return (image, label) of the objects that come once in each image -> box."""
    (part,) = crops.parts
    return {(int(i), int(n)): tuple(box) for i, n, box in zip(part.images, places(part), part.boxes, strict=True)}


def places(part):
    """Count the crops of each image from 0."""
    starts = {int(index): place for place, index in reversed(list(enumerate(part.images)))}
    return [place - starts[int(index)] for place, index in enumerate(part.images)]


def recomputed(box, place, seed, key, shift=0.15, scale=(0.9, 1.5)):
    """Write the formula out again, from the bytes of the hash on, for width and height rather than corners."""
    digest = hashlib.shake_128(repr((seed, "loosen", key, place)).encode()).digest(24)
    a, b, c = ((int.from_bytes(digest[8 * n : 8 * n + 8], "little") >> 11) / 2**53 for n in range(3))
    left, top, right, bottom = map(float, box)
    width, height = right - left, bottom - top
    factor = scale[0] + c * (scale[1] - scale[0])
    left += (a - 0.5) * 2 * shift * width - (factor - 1) * width / 2
    top += (b - 0.5) * 2 * shift * height - (factor - 1) * height / 2
    return [left, top, left + factor * width, top + factor * height]


@pytest.mark.parametrize(("shift", "scale"), [(0.15, (0.9, 1.5)), (0.0, (1.0, 1.0)), (0.5, (0.25, 0.5))])
def test_boxes_are_those_of_the_formula(shift, scale):
    values = LoosenTable(shift=shift, scale=scale)
    loosened = loosen(BOXES, PLACES, values, 7, "a/b.jpg")
    assert loosened.dtype == np.float32
    expected = [recomputed(box, place, 7, "a/b.jpg", shift, scale) for place, box in enumerate(BOXES)]
    np.testing.assert_allclose(loosened, expected, rtol=1e-5, atol=1e-5)
    if scale == (1.0, 1.0):
        np.testing.assert_allclose(loosened, BOXES, atol=1e-5)


def test_shifts_and_factors_are_uniform_over_their_ranges_and_keep_the_aspect():
    box = np.array([[100, 50, 140, 70]], np.float32)
    many = np.concatenate([loosen(box, PLACES[:1], LoosenTable(), 0, str(key)) for key in range(4000)]).astype(float)
    sides = many[:, 2:] - many[:, :2]
    shifts = ((many[:, 2:] + many[:, :2]) / 2 - [120, 60]) / [40, 20]
    factors = sides / [40, 20]
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-4)
    for values, low, high in ((shifts[:, 0], -0.15, 0.15), (shifts[:, 1], -0.15, 0.15), (factors[:, 0], 0.9, 1.5)):
        assert low - 1e-4 <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high + 1e-4
        deciles = np.quantile(values, np.arange(0.1, 1, 0.1))
        np.testing.assert_allclose(deciles, low + (high - low) * np.arange(0.1, 1, 0.1), atol=0.04 * (high - low))
    assert abs(np.corrcoef(shifts[:, 0], shifts[:, 1])[0, 1]) < 0.05
    assert abs(np.corrcoef(shifts[:, 0], factors[:, 0])[0, 1]) < 0.05


def test_a_box_depends_on_seed_image_and_object_alone():
    first = loosen(BOXES, PLACES, LoosenTable(), 0, "a")
    assert np.array_equal(first, loosen(BOXES, PLACES, LoosenTable(), 0, "a"))
    assert np.array_equal(first[2:], loosen(BOXES[2:], PLACES[2:], LoosenTable(), 0, "a"))
    assert not np.isclose(first, loosen(BOXES, PLACES, LoosenTable(), 1, "a")).any()
    assert not np.isclose(first, loosen(BOXES, PLACES, LoosenTable(), 0, "b")).any()
    assert loosen(BOXES[:0], PLACES[:0], LoosenTable(), 0, "a").shape == (0, 4)


def test_a_limit_and_a_smallest_side_change_no_box(source):
    all_boxes = by_object(collect_crops(source, table(), seed=0))
    limited = by_object(collect_crops(source, table(limit=25), seed=0))
    assert len(limited) == 25
    assert limited.items() <= all_boxes.items()
    large = collect_crops(source, table(min_side=16), seed=0)  # leaves out the second object of each image
    expected = {(image, place): box for (image, place), box in all_boxes.items() if place != 1}
    assert {(i, 2 * n): box for (i, n), box in by_object(large).items()} == expected


def test_loosened_crops_have_the_labels_and_the_split_of_tight_ones(source):
    loose, tight = (collect_crops(source, table(loosen=values), seed=3) for values in ({}, None))
    assert torch.equal(loose.labels, tight.labels)
    assert torch.equal(loose.images, tight.images)
    assert torch.equal(loose.test, tight.test)
    assert not np.isclose(loose.parts[0].boxes, tight.parts[0].boxes).all(1).any()


def test_test_images_are_loosened_like_training_images(source):
    other = copy.copy(source)
    other.first = 40  # other pixels
    crops = collect_crops(source, table(), 0, other)
    assert by_object(type(crops)([crops.parts[0]], crops.test[:120].numpy(), table())) == by_object(
        type(crops)([crops.parts[1]], crops.test[120:].numpy(), table())
    )


def test_boxes_beyond_the_image_are_clipped_to_it(source):
    """Compare the pixels with those of boxes that are clipped by hand; many of these boxes cross a border."""
    wide = table(loosen={"shift": 0.5, "scale": (1.5, 2.0)})
    crops = collect_crops(source, wide, seed=0)
    part, size = crops.parts[0], np.array([48, 40, 48, 40])
    assert (part.boxes < 0).any()
    assert (part.boxes > size).any()
    clipped = np.clip(part.boxes, 0, size).astype(np.float32)
    assert (clipped[:, 2:] - clipped[:, :2] >= 1).all()
    patches = torch.cat(list(crops.batches())).permute(0, 2, 3, 1).numpy()
    for patch, index, box in list(zip(patches, part.images, clipped, strict=True))[:30]:
        image = images.decode(source.read(int(index)), "x")
        assert np.array_equal(patch, images.cuts(image, box[None], 16, "bicubic")[0])


def test_pixels_do_not_depend_on_the_number_of_threads(source, monkeypatch):
    read = []
    for threads in (1, 5):
        monkeypatch.setattr(crops_module, "cores", lambda threads=threads: threads)
        read.append(torch.cat(list(collect_crops(source, table(), seed=0).batches())))
    assert torch.equal(*read)
