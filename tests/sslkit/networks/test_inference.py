"""A backbone with its normalisation, on plain images."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from sslkit.networks.inference import NormalisedBackbone

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


@pytest.fixture
def backbone(plugins):
    torch.manual_seed(0)
    return plugins.find("backbone", "tiny").cls(width=6).eval()


def test_images_of_bytes_and_of_floats_are_normalised_as_torchvision_does(backbone) -> None:
    images = torch.randint(0, 256, (3, 3, 24, 32), dtype=torch.uint8)
    reference = v2.Normalize(MEAN, STD)(v2.ToDtype(torch.float32, scale=True)(images))
    network = NormalisedBackbone(backbone, MEAN, STD)
    expected = backbone(reference)
    torch.testing.assert_close(network(images), expected["features"])
    torch.testing.assert_close(network(images / 255), expected["features"])
    torch.testing.assert_close(network(images, "map"), expected["map"])
    assert network.dim == network(images).shape[1] == 6


def test_only_the_backbones_weights_are_in_its_state(backbone) -> None:
    network = NormalisedBackbone(backbone, MEAN, STD)
    assert network.state_dict().keys() == {f"backbone.{name}" for name in backbone.state_dict()}


def test_an_output_that_it_does_not_have_is_refused(backbone) -> None:
    with pytest.raises(ValueError, match="no output 'tokens'; it has features, map"):
        NormalisedBackbone(backbone, MEAN, STD)(torch.zeros(1, 3, 8, 8), "tokens")
