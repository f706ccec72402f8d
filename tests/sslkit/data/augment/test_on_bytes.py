"""Augmentation on bytes: each operation torchvision's within rounding, all together Pillow's and lightly's in distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightly.transforms import BYOLView1Transform
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms.v2 import functional as F

from sslkit.data.augment import on_tensors
from sslkit.data.augment.on_bytes import apply
from sslkit.data.augment.parameters import JITTER, PARAMETERS, draw, kernel_radius
from sslkit.planning.recipe import View

PLAIN = {"flip": 0, "jitter": 0, "grayscale": 0, "blur": 0, "solarize": 0}
IDENTITY = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
FUNCTIONS = {
    "brightness": F.adjust_brightness, "contrast": F.adjust_contrast, "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}  # fmt: skip


def row(**values: float) -> list[float]:
    order = {name: float(place) for place, name in enumerate(("first", "second", "third", "fourth"))}
    parameters = {**PLAIN, **IDENTITY, **order, **values}
    return [parameters[name] for name in PARAMETERS]


def smooth(side: int = 64, seed: int = 0) -> np.ndarray:
    """Return something like a photograph (h w 3): noise would hide errors of a blur."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.array(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def noise(side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def augmented(pixels: np.ndarray, params: list[float], view: View | None = None) -> np.ndarray:
    augmented = pixels.copy()
    apply(augmented, params, view or View())
    return augmented.astype(np.float64)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def levels(images: torch.Tensor) -> np.ndarray:
    return 255 * images.permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("pixels", [smooth(), noise()], ids=["smooth", "noise"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brightness", 1.37), ("brightness", 0.6), ("contrast", 1.4), ("contrast", 0.6), ("saturation", 1.8),
        ("saturation", 0.0), ("hue", 0.1), ("hue", -0.1), ("hue", -0.37), ("hue", 0.5),
    ],
)  # fmt: skip
def test_each_jitter_operation_is_torchvisions_within_rounding(pixels, name, value) -> None:
    expected = levels(FUNCTIONS[name](tensor(pixels), value))
    error = np.abs(augmented(pixels, row(jitter=1, **{name: value})) - expected)
    assert error.max() < 1.0
    assert error.mean() < 0.3  # rounding alone: 0.25


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 3, 2, 0)])
def test_jitter_runs_in_the_drawn_order(order) -> None:
    values = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.5, "hue": 0.15}
    pixels = smooth()
    expected = tensor(pixels)
    for number in order:
        expected = FUNCTIONS[JITTER[number]](expected, values[JITTER[number]])
    numbered = dict(zip(("first", "second", "third", "fourth"), map(float, order), strict=True))
    error = np.abs(augmented(pixels, row(jitter=1, **values, **numbered)) - levels(expected))
    assert error.max() < 3.5
    assert error.mean() < 0.6


def test_flip_greyscale_and_solarize_are_torchvisions() -> None:
    pixels = noise()
    assert np.array_equal(augmented(pixels, row(flip=1)), pixels[:, ::-1])
    grey = np.abs(augmented(pixels, row(grayscale=1)) - levels(F.rgb_to_grayscale(tensor(pixels), 3)))
    assert grey.max() < 0.6
    view = View(solarize_threshold=0.4)
    solarized = np.abs(augmented(pixels, row(solarize=1), view) - levels(F.solarize(tensor(pixels), 0.4)))
    assert solarized.max() < 1e-3


@pytest.mark.parametrize(("side", "sigma"), [(224, 2.0), (224, 0.1), (224, 0.7), (96, 1.0), (40, 0.5), (8, 1.0)])
@pytest.mark.parametrize("make", [smooth, noise])
def test_blur_is_torchvisions_with_byols_kernel(make, side, sigma) -> None:
    pixels = make(side)
    size = 2 * kernel_radius(side) + 1
    expected = levels(F.gaussian_blur(tensor(pixels), [size, size], [sigma, sigma]))
    assert np.abs(augmented(pixels, row(blur=sigma)) - expected).max() < 0.8


def test_a_blur_leaves_a_plain_colour_unchanged() -> None:
    """A kernel in whole 256ths, as OpenCV takes it between bytes, would darken it."""
    for sigma in np.linspace(0.1, 2, 39):
        assert (augmented(np.full((64, 64, 3), 201, np.uint8), row(blur=float(sigma))) == 201).all()


def test_both_executors_agree_within_rounding() -> None:
    view = View(size=64, blur=0.5, solarize=0.2, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = smooth()
    mean, most = [], []
    for seed in range(60):
        params = torch.tensor([draw(view, seed)])
        exact = on_tensors.apply(torch.from_numpy(pixels).permute(2, 0, 1)[None], params, view)[0]
        error = np.abs(augmented(pixels, params[0].tolist(), view) - levels(exact))
        mean.append(error.mean())
        most.append(np.quantile(error, 0.999))  # a pixel at the threshold of solarize may fall on either side
    assert np.mean(mean) < 0.5
    assert np.max(mean) < 1
    assert np.max(most) < 4


def test_the_bits_of_a_view_do_not_depend_on_earlier_ones() -> None:
    view, pixels = View(solarize=0.3), noise(40)
    draws = [draw(view, seed) for seed in range(30)]
    first = [augmented(pixels, params, view) for params in draws]
    again = [augmented(pixels, params, view) for params in reversed(draws)][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("make", [smooth, noise])
def test_colours_are_distributed_as_lightlys(make) -> None:
    """Means and spreads of what BYOL's first view of lightly makes of one picture, and of what ours does.

    Lightly's crop is the whole picture here. Its blur is Pillow's: boxes near a Gaussian, not cut off at BYOL's kernel.
    """
    pixels = make(112)
    theirs = BYOLView1Transform(input_size=112, min_scale=1.0, normalize=None)
    torch.manual_seed(0)
    np.random.seed(0)
    view, count = View(size=112, blur=1.0), 300
    ours = np.stack([augmented(pixels, draw(view, seed), view) / 255 for seed in range(count)])
    reference = np.stack([theirs(Image.fromarray(pixels)).permute(1, 2, 0).numpy() for _ in range(count)])
    statistics = {
        "mean": lambda x: x.mean((1, 2, 3)),
        "red": lambda x: x[..., 0].mean((1, 2)),
        "contrast": lambda x: x.std((1, 2, 3)),
        "colourfulness": lambda x: x.std(3).mean((1, 2)),
        "detail": lambda x: np.abs(np.diff(x, axis=2)).mean((1, 2, 3)),
    }
    level = np.random.default_rng(0).normal(0, 1 / 255, (2, count))  # views without jitter are alike but for rounding
    for name, statistic in statistics.items():
        drawn, expected = (statistic(x) + blurred for x, blurred in zip((ours, reference), level, strict=True))
        assert ks_2samp(drawn, expected).pvalue > 1e-3, name
