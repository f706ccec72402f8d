"""Random resized crops, against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms.v2 import RandomResizedCrop

from sslkit.crops import FloatBoxes, central_crop, random_crops

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def draw(height: int, width: int, count: int = 1, seed: int = 0) -> FloatBoxes:
    return random_crops(height, width, (count,), SCALE, RATIO, np.random.default_rng(seed))


def theirs(height: int, width: int, count: int) -> FloatBoxes:
    """Draw the same number of crops with torchvision, as xyxy."""
    torch.manual_seed(0)
    crop, image = RandomResizedCrop(8, SCALE, RATIO), torch.zeros(1, height, width, dtype=torch.uint8)
    drawn = [crop.make_params([image]) for _ in range(count)]
    return np.array([[d["left"], d["top"], d["left"] + d["width"], d["top"] + d["height"]] for d in drawn], float)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (200, 1000)])
def test_distributed_as_torchvisions(height: int, width: int) -> None:
    """Area, aspect ratio and position: a Kolmogorov-Smirnov test finds no difference."""
    ours, reference = draw(height, width, 3000), theirs(height, width, 3000)
    for figure in (_area, _aspect, _left, _top):
        assert ks_2samp(figure(ours), figure(reference)).pvalue > 0.01, figure.__name__


def _area(boxes: FloatBoxes) -> FloatBoxes:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _aspect(boxes: FloatBoxes) -> FloatBoxes:
    return (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])


def _left(boxes: FloatBoxes) -> FloatBoxes:
    return boxes[:, 0]


def _top(boxes: FloatBoxes) -> FloatBoxes:
    return boxes[:, 1]


@pytest.mark.parametrize(("height", "width"), [(10, 4000), (4000, 10), (1, 300), (1, 1), (77, 2001)])
def test_where_no_size_fits_the_crop_is_torchvisions_central_one(height: int, width: int) -> None:
    crop = RandomResizedCrop(8, SCALE, RATIO)
    crop.scale = (50.0, 50.0)  # larger than the image: every size fails
    params = crop.make_params([torch.zeros(1, height, width, dtype=torch.uint8)])
    left, top, right, bottom = central_crop(height, width, RATIO)
    assert (left, top, right - left, bottom - top) == tuple(params[k] for k in ("left", "top", "width", "height"))
    never = random_crops(height, width, (5,), (50.0, 50.0), RATIO, np.random.default_rng(0))
    assert (never == (left, top, right, bottom)).all()


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_whole_pixels_inside_the_image(height: int, width: int, seed: int) -> None:
    boxes = draw(height, width, 20, seed)
    assert (boxes == np.rint(boxes)).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


def test_every_place_can_be_drawn() -> None:
    """Both edges included: a crop may touch each side of the image."""
    boxes = draw(12, 12, 40_000)
    assert boxes.min() == 0
    assert boxes.max() == 12
    assert {tuple(box) for box in boxes if _area(box[None])[0] == 25} >= {(0, 0, 5, 5), (7, 7, 12, 12)}


def test_takes_as_many_random_numbers_whatever_they_are() -> None:
    """Otherwise the next draw would depend on how well the sizes fitted."""
    states = []
    for height, width in ((480, 640), (1, 9000)):
        rng = np.random.default_rng(4)
        random_crops(height, width, (3, 2), SCALE, RATIO, rng)
        states.append(rng.random())
    assert states[0] == states[1]
