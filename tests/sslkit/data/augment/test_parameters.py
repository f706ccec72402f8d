"""The parameters drawn for a view."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from sslkit.data.augment.parameters import PARAMETERS, draw, kernel, kernel_radius
from sslkit.planning.recipe import View


def test_draws_follow_their_probabilities_and_ranges() -> None:
    view = View(flip=0.5, jitter=0.8, grayscale=0.2, blur=0.3, solarize=0.1, hue=0.1, brightness=0.4)
    drawn = dict(zip(PARAMETERS, np.array([draw(view, 0, number) for number in range(4000)]).T, strict=True))
    for name, share in {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2, "solarize": 0.1}.items():
        assert abs(drawn[name].mean() - share) < 4 * math.sqrt(share * (1 - share) / 4000), name
    blurred = drawn["blur"] > 0
    assert abs(blurred.mean() - 0.3) < 0.03
    assert 0.1 <= drawn["blur"][blurred].min() < 0.15 < 1.95 < drawn["blur"].max() <= 2
    jittered = drawn["jitter"] > 0
    assert (drawn["brightness"][~jittered] == 1).all()
    assert (drawn["hue"][~jittered] == 0).all()
    assert 0.6 <= drawn["brightness"].min() < 0.62 < 1.38 < drawn["brightness"].max() <= 1.4
    assert -0.1 <= drawn["hue"].min() < -0.098 < 0.098 < drawn["hue"].max() <= 0.1
    orders = {tuple(order) for order in zip(*(drawn[n] for n in ("first", "second", "third", "fourth")), strict=True)}
    assert len(orders) == 24


def test_changing_an_option_leaves_the_other_numbers_unchanged() -> None:
    one, other = (
        dict(zip(PARAMETERS, draw(view, 3, "scene"), strict=True)) for view in (View(), View(blur=0.0, flip=1.0))
    )
    changed = {"flip", "blur"}
    assert {name: one[name] for name in PARAMETERS if name not in changed} == {
        name: other[name] for name in PARAMETERS if name not in changed
    }


def test_every_path_has_its_own_draw() -> None:
    assert draw(View(), 1, "a", 2) == draw(View(), 1, "a", 2)
    assert (
        len({tuple(draw(View(), seed, image, network)) for seed in (0, 1) for image in range(20) for network in "ab"})
        > 75
    )


def test_byols_kernel_is_23_pixels_wide_at_224() -> None:
    assert 2 * kernel_radius(224) + 1 == 23


@pytest.mark.parametrize(("sigma", "radius"), [(2.0, 11), (0.1, 11), (0.7, 4)])
def test_a_kernel_is_a_gaussian_that_sums_to_one(sigma, radius) -> None:
    taps = kernel(sigma, radius, negligible=1e9)
    expected = norm.pdf(np.arange(-radius, radius + 1), scale=sigma)
    np.testing.assert_allclose(taps, (expected / expected.sum())[radius:], atol=1e-12)
