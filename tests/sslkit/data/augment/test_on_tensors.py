"""Augmentation against torchvision's functions, and the promise that a view's bits do not depend on its batch."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from sslkit.data.augment.on_tensors import apply, normalise
from sslkit.data.augment.parameters import JITTER, PARAMETERS, draw, kernel_radius
from sslkit.planning.recipe import View

PLAIN = {"flip": 0, "jitter": 0, "grayscale": 0, "blur": 0, "solarize": 0}
IDENTITY = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


def row(**values: float) -> torch.Tensor:
    """Return one draw with these values and nothing else."""
    order = {name: float(place) for place, name in enumerate(("first", "second", "third", "fourth"))}
    parameters = {**PLAIN, **IDENTITY, **order, **values}
    return torch.tensor([[parameters[name] for name in PARAMETERS]])


def pixels(count: int = 1, side: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(seed))


def ours(images: torch.Tensor, draws: torch.Tensor, view: View | None = None) -> torch.Tensor:
    """Augment, and undo the normalisation."""
    view = view or View()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (view.mean, view.std))
    return apply(images, draws.expand(len(images), -1), view) * std + mean


@pytest.mark.parametrize(
    ("name", "value", "reference"),
    [
        ("brightness", 1.37, F.adjust_brightness),
        ("brightness", 0.6, F.adjust_brightness),
        ("contrast", 1.4, F.adjust_contrast),
        ("contrast", 0.6, F.adjust_contrast),
        ("saturation", 1.2, F.adjust_saturation),
        ("saturation", 0.0, F.adjust_saturation),
        ("hue", 0.1, F.adjust_hue),
        ("hue", -0.37, F.adjust_hue),
        ("hue", 0.5, F.adjust_hue),
    ],
)
def test_each_jitter_operation_is_torchvisions(name, value, reference) -> None:
    images = pixels(4)
    expected = reference(images.float() / 255, value)
    torch.testing.assert_close(ours(images, row(jitter=1, **{name: value})), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 3, 2, 0)])
def test_jitter_runs_in_the_drawn_order(order) -> None:
    values = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.5, "hue": 0.15}
    functions = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    images = pixels(2)
    expected = images.float() / 255
    for number in order:
        expected = functions[number](expected, values[JITTER[number]])
    numbered = dict(zip(("first", "second", "third", "fourth"), map(float, order), strict=True))
    torch.testing.assert_close(ours(images, row(jitter=1, **values, **numbered)), expected, atol=2e-6, rtol=0)


def test_flip_greyscale_and_solarize_are_torchvisions() -> None:
    images = pixels(3)
    x = images.float() / 255
    torch.testing.assert_close(ours(images, row(flip=1)), F.horizontal_flip(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(ours(images, row(grayscale=1)), F.rgb_to_grayscale(x, 3), atol=1e-6, rtol=0)
    view = View(solarize_threshold=0.4)
    torch.testing.assert_close(ours(images, row(solarize=1), view), F.solarize(x, 0.4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("side", "sigma"), [(224, 2.0), (224, 0.1), (224, 0.7), (96, 1.0), (40, 0.5), (8, 1.0)])
def test_blur_is_torchvisions_with_byols_kernel(side, sigma) -> None:
    images = pixels(2, side)
    size = 2 * kernel_radius(side) + 1
    expected = F.gaussian_blur(images.float() / 255, [size, size], [sigma, sigma])
    torch.testing.assert_close(ours(images, row(blur=sigma)), expected, atol=2e-6, rtol=0)


def test_operations_run_in_the_stated_order() -> None:
    images = pixels(2, 64)
    everything = row(flip=1, jitter=1, brightness=1.2, grayscale=1, blur=0.8, solarize=1)
    x = F.adjust_brightness(F.horizontal_flip(images.float() / 255), 1.2)
    x = F.gaussian_blur(F.rgb_to_grayscale(x, 3), [7, 7], [0.8, 0.8])
    close = (x - 128 / 255).abs() < 1e-5  # where rounding decides on which side of the threshold a pixel is
    expected = F.solarize(x, 128 / 255)
    torch.testing.assert_close(ours(images, everything)[~close], expected[~close], atol=3e-6, rtol=0)


def test_nothing_is_clamped_after_normalising() -> None:
    view = View()
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(view.mean)) / torch.tensor(view.std)
    torch.testing.assert_close(apply(white, row(), view)[0, :, 0, 0], expected, atol=1e-6, rtol=0)
    assert expected.min() > 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_view_has_the_same_bits_in_any_batch(threads) -> None:
    """Whatever else is augmented with it, in whatever order, and however many threads there are."""
    torch.set_num_threads(threads)
    view = View(size=56, solarize=0.3)
    images = pixels(90, 56)
    draws = torch.tensor([draw(view, seed) for seed in range(90)])
    together = apply(images, draws, view)
    turned = torch.randperm(90, generator=torch.manual_seed(1))
    assert torch.equal(apply(images[turned], draws[turned], view), together[turned])
    for place in range(0, 90, 7):
        assert torch.equal(
            apply(images[place : place + 1], draws[place : place + 1], view), together[place : place + 1]
        )


def test_input_pixels_are_left_unchanged() -> None:
    images = pixels(2)
    before = images.clone()
    apply(images, row(flip=1, blur=1.0).expand(2, -1), View())
    assert torch.equal(images, before)


def test_no_views_give_no_views() -> None:
    assert apply(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, 13), View()).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("side", [8, 33])
def test_normalising_alone_is_subtracting_and_dividing(side) -> None:
    images = pixels(4, side).permute(0, 2, 3, 1).contiguous()
    view = View()
    expected = (images.permute(0, 3, 1, 2).double() / 255 - torch.tensor(view.mean).view(3, 1, 1)) / torch.tensor(
        view.std
    ).view(3, 1, 1)
    normalised = normalise(images.view(2, 2, side, side, 3), view)
    assert normalised.shape == (2, 2, 3, side, side)
    assert normalised.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(normalised.flatten(0, 1).double(), expected, atol=1e-6, rtol=0)
