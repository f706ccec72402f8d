"""Probe crops and frozen features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sslkit import images, probing
from sslkit.api import Objects
from sslkit.errors import DataError
from sslkit.recipe import ProbeTable, View


@pytest.fixture
def dots(plugins):
    """Return a function that opens the fake source."""

    def opened(**options):
        source = plugins.find("source", "dots").cls(**options)
        source.open()
        return source

    return opened


def table(**values):
    return ProbeTable(use="nearest", **{"size": 16, **values})


def test_crops_are_the_objects_with_their_labels(dots) -> None:
    source = dots(images=30)
    crops = probing.gather(source, table(), seed=0)
    assert crops.pixels.shape == (30, 3, 16, 16)
    assert crops.pixels.dtype == torch.uint8
    assert sorted(crops.labels.tolist()) == [0] * 15 + [1] * 15
    for pixels, label in zip(crops.pixels, crops.labels, strict=True):
        assert (pixels[label] == 250).all()
        assert not pixels[1 - label].any()
    assert crops.categories == ("red", "green")


def test_whole_images_are_cropped_where_asked(dots, monkeypatch) -> None:
    source = dots(images=8)
    monkeypatch.setattr(source, "label", lambda index: index % 2, raising=False)
    crops = probing.gather(source, table(crops="images", size=8), seed=0)
    photo = images.decode(source.read(0), "x")
    expected = images.cuts(photo, np.array([[0, 0, 48, 40]], np.float32), 8, "bicubic")[0]
    assert any(np.array_equal(pixels.permute(1, 2, 0).numpy(), expected) for pixels in crops.pixels)
    assert len(crops.labels) == 8


def test_no_image_is_on_both_sides(dots, monkeypatch) -> None:
    """Objects of one image share its light and background: they would tell on each other."""
    source = dots(images=40)
    boxes = np.array([[10, 8, 34, 32], [0, 0, 20, 20], [5, 5, 30, 35]], np.float32)
    monkeypatch.setattr(source, "objects", lambda index: Objects(boxes, np.array([index % 2, 0, index], np.int64)))
    crops = probing.gather(source, table(test_share=0.5), seed=1)
    image = crops.labels.view(40, 3)[:, 2]  # the third object's label is the image
    sides = crops.test.view(40, 3)
    assert sorted(image.tolist()) == list(range(40))
    assert ((sides == sides[:, :1]).all(1)).all()
    assert 10 < sides[:, 0].sum() < 30


def test_the_split_is_a_function_of_the_seed(dots) -> None:
    made = [probing.gather(dots(images=30), table(), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(made[0].test, made[1].test)
    assert torch.equal(made[0].labels, made[1].labels)
    assert not torch.equal(made[0].test, made[2].test)


def test_small_objects_and_those_beyond_the_limit_are_left_out(dots) -> None:
    assert len(probing.gather(dots(images=30), table(limit=7), seed=0).labels) == 7
    with pytest.raises(DataError, match=r"labelled objects of two categories or more; source 'dots' gave 0 crops"):
        probing.gather(dots(images=30), table(min_side=25), seed=0)


def test_features_are_those_of_eval_mode_and_leave_the_backbone_as_it_was() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return {"features": self.drop(self.norm(x)).mean((2, 3))}

    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    found = probing.features(net, pixels, torch.device("cpu"))
    view = View()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (view.mean, view.std))
    torch.testing.assert_close(found, ((pixels / 255 - mean) / std).mean((2, 3)), atol=1e-4, rtol=1e-4)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_raw_pixels_are_centred_and_small() -> None:
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    raw = probing.raw_pixels(pixels)
    assert raw.shape == (5, 3 * 32 * 32)
    assert raw.mean(1).abs().max() < 1e-3
    blocks = pixels.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).flatten(1)
    torch.testing.assert_close(raw, blocks - blocks.mean(1, keepdim=True))
