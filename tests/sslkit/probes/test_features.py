"""Features of crops: of a frozen backbone, pooled, and of raw pixels."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from sslkit.errors import DataError
from sslkit.planning.recipe import ProbeTable, View
from sslkit.plugins import Component, Owner
from sslkit.probes.crops import collect_crops
from sslkit.probes.features import extract_features, frozen, pooled, raw_pixels

CPU = torch.device("cpu")


class Net(nn.Module):
    """Batch norm and dropout."""

    gives: ClassVar = {"features": "f"}
    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return {"features": self.drop(self.norm(x)).mean((2, 3))}


def colour(pixels):
    return {"features": pixels.float().mean((2, 3))}


def test_features_are_those_of_eval_mode_and_leave_the_backbone_as_it_was():
    net = Net().train()
    net.norm.eval()  # frozen on its own
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    view = View(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    component = Component("backbone", "here/net", Net, Owner("here", "here", "1"))
    with frozen(component, net, CPU, view) as extract:
        features = extract(pixels)["features"]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (view.mean, view.std))
    torch.testing.assert_close(features, ((pixels / 255 - mean) / std).mean((2, 3)), atol=1e-4, rtol=1e-4)
    assert (net.training, net.norm.training, net.drop.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_raw_pixels_are_centred_and_small():
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    raw = raw_pixels(pixels)["features"]
    assert raw.shape == (5, 3 * 32 * 32)
    assert raw.mean(1).abs().max() < 1e-3
    blocks = pixels.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).flatten(1)
    torch.testing.assert_close(raw, blocks - blocks.mean(1, keepdim=True))


def test_features_go_to_their_side_with_labels_and_images(plugins):
    source = plugins.find("source", "dots").cls(images=600)
    source.open()
    crops = collect_crops(source, ProbeTable(use="nearest", size=8), 0)
    train, test = extract_features(crops, {"x": colour}, ["mean"], torch.device("meta"))["x"]["mean"]
    for part, side in ((train, ~crops.test), (test, crops.test)):
        assert torch.equal(part.labels, crops.labels[side])
        assert torch.equal(part.images, crops.images[side])
        assert torch.equal(part.features.argmax(1), part.labels)
        assert part.device.type == "meta"  # where probes may compute; the features stay on the CPU
        assert part.features.device.type == "cpu"
    assert len(train) + len(test) == 600


def test_unreadable_images_are_left_out_of_the_features(plugins):
    source = plugins.find("source", "dots").cls(images=60, broken=(7, 8, 9))
    source.open()
    crops = collect_crops(source, ProbeTable(use="nearest", size=8), 0)
    sides = extract_features(crops, {"x": colour}, ["mean"], CPU)["x"]["mean"]
    seen = torch.cat([part.images for part in sides])
    assert sorted(seen.tolist()) == [image for image in range(60) if image not in (7, 8, 9)]
    for part in sides:
        assert len(part.features) == len(part.labels) == len(part.images)
        assert torch.equal(part.features.argmax(1), part.labels)
    assert len(crops.unreadable) == 3


def test_a_side_without_readable_images_is_refused(plugins):
    source = plugins.find("source", "dots").cls(images=8, broken=tuple(range(8)))
    source.open()
    crops = collect_crops(source, ProbeTable(use="nearest", size=8), 0)
    with pytest.raises(
        DataError,
        match=r"none of the \d images that a probe would train on can be read; the first: 000\d\.png is not an image",
    ):
        extract_features(crops, {"x": colour}, ["mean"], CPU)


def test_a_grid_of_two_has_the_means_of_the_quarters():
    rows = {"features": torch.randn(3, 5), "map": torch.randn(3, 5, 8, 6)}
    assert pooled(rows, "mean") is rows["features"]
    quarters = pooled(rows, "grid-2")
    assert quarters.shape == (3, 4 * 5)
    for image in range(3):
        for channel in range(5):
            cells = rows["map"][image, channel]
            by_hand = [cells[:4, :3].mean(), cells[:4, 3:].mean(), cells[4:, :3].mean(), cells[4:, 3:].mean()]
            torch.testing.assert_close(quarters[image, 4 * channel : 4 * channel + 4], torch.stack(by_hand))


@pytest.mark.parametrize("cells", [3, 4])
def test_cells_of_other_grids_overlap_where_they_do_not_divide_the_map(cells):
    """Cell i of n covers the positions from floor(i h / n) to ceil((i + 1) h / n)."""
    x = torch.randn(2, 3, 7, 4)
    starts = [[i * side // cells for i in range(cells)] for side in (7, 4)]
    ends = [[-(-(i + 1) * side // cells) for i in range(cells)] for side in (7, 4)]
    expected = [
        x[:, :, starts[0][i] : ends[0][i], starts[1][j] : ends[1][j]].mean((2, 3))
        for i in range(cells)
        for j in range(cells)
    ]
    features = pooled({"map": x}, f"grid-{cells}").view(2, 3, cells**2)
    torch.testing.assert_close(features, torch.stack(expected, dim=2))


def test_pools_of_one_extractor_share_a_pass_and_raw_pixels_have_one_table(plugins):
    source = plugins.find("source", "dots").cls(images=600)
    source.open()
    crops = collect_crops(source, ProbeTable(use="nearest", size=8), 0)
    calls = []

    def extract(pixels):
        calls.append(len(pixels))
        return {"features": pixels.float().mean((2, 3)), "map": pixels.float()}

    features = extract_features(crops, {"net": extract, "pixels": raw_pixels}, ["grid-2", "mean"], CPU)
    assert calls == [256, 256, 88]
    assert list(features["net"]) == ["grid-2", "mean"]
    for side in (0, 1):
        grid, mean = (features["net"][pool][side] for pool in ("grid-2", "mean"))
        assert torch.equal(grid.labels, mean.labels)
        torch.testing.assert_close(grid.features.view(-1, 3, 4).mean(2), mean.features)
        assert features["pixels"]["grid-2"][side] is features["pixels"]["mean"][side]
