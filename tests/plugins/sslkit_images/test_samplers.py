"""Samplers of random resized crops. The distribution of the crops is tested in the tests of `sslkit.crops`."""

from __future__ import annotations

import numpy as np
import pytest

from sslkit.boxes import empty
from sslkit.crops import random_crops
from sslkit_images.samplers import MultiCrop, TwoViews

RATIO = (3 / 4, 4 / 3)


def areas(boxes, height, width):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (height * width)


@pytest.mark.parametrize("views", [1, 2, 5])
def test_two_views_are_random_resized_crops_of_the_whole_image(views) -> None:
    sampler = TwoViews(views=views)
    assert sampler.groups == {"scene": views}
    sample = sampler.sample(300, 400, empty(), np.random.default_rng(1))
    assert not sample.counts
    expected = random_crops(300, 400, (views,), (0.08, 1.0), RATIO, np.random.default_rng(1))
    assert sample.boxes["scene"].dtype == np.float32
    assert np.array_equal(sample.boxes["scene"], expected)


def test_multi_crop_keeps_large_and_small_crops_apart() -> None:
    """On a large image, rounding to pixels changes a crop's share of the area by less than a thousandth."""
    sampler = MultiCrop(global_crops=2, local_crops=6)
    assert sampler.groups == {"global": 2, "local": 6}
    rng = np.random.default_rng(0)
    drawn = [sampler.sample(3000, 3000, empty(), rng).boxes for _ in range(200)]
    large = areas(np.concatenate([boxes["global"] for boxes in drawn]), 3000, 3000)
    small = areas(np.concatenate([boxes["local"] for boxes in drawn]), 3000, 3000)
    assert (len(large), len(small)) == (400, 1200)
    assert 0.399 < large.min() < 0.45
    assert 0.9 < large.max() <= 1
    assert 0.049 < small.min() < 0.06
    assert 0.38 < small.max() < 0.401


@pytest.mark.parametrize(("height", "width"), [(20, 20), (1, 1), (12_000, 600), (600, 12_000)])
@pytest.mark.parametrize("sampler", [TwoViews(), MultiCrop()])
def test_any_image_gives_crops_inside_it(sampler, height, width) -> None:
    boxes = np.concatenate(
        list(sampler.sample(height, width, empty(), np.random.default_rng(7)).boxes.values()), axis=0
    )
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (TwoViews, {"scale": (0.5, 0.2)}, r"scale = \[0\.5, 0\.2\] must be \[low, high\] with 0 < low <= high <= 1"),
        (TwoViews, {"scale": (0.5, 1.2)}, r"scale = \[0\.5, 1\.2\]"),
        (TwoViews, {"ratio": (0.0, 1.0)}, r"ratio = \[0\.0, 1\.0\] must be"),
        (MultiCrop, {"local_scale": (0.0, 0.4)}, r"local_scale = "),
        (MultiCrop, {"global_scale": (0.4, 1.4)}, r"global_scale = "),
    ],
)
def test_invalid_ranges_are_refused(sampler, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**options)
