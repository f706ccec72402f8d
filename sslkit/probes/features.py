"""Extract features from crops: of a frozen backbone, pooled in several ways at once, and of raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkit.api import Labelled, Progress, no_progress
from sslkit.contracts.networks import run_backbone
from sslkit.errors import DataError
from sslkit.planning.recipe import View
from sslkit.plugins import Component
from sslkit.probes.crops import Crops

_PIXEL_SIDE = 32
_LAZY_CLONE: Callable[[Tensor], Tensor] = getattr(torch, "_lazy_clone", torch.clone)

Extractor = Callable[[Tensor], Mapping[str, Tensor]]
"""Maps uint8 pixels (n 3 s s) to rows, as a backbone does: `features` (n f), and `map` (n f h w) if it has one."""
Sides = tuple[Labelled, Labelled]
"""The features of the training and of the test side."""


def normaliser(view: View, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that maps uint8 pixels (n 3 h w) to what a backbone takes, on `device`."""
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (view.mean, view.std))

    def normalise(pixels: Tensor) -> Tensor:
        return ((pixels.to(device).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    return normalise


@contextmanager
def frozen(component: Component, backbone: nn.Module, device: torch.device, view: View) -> Iterator[Extractor]:
    """Put a backbone into eval mode and yield its feature extractor; restore its modes afterwards.

    Args:
        component: The backbone's component, which is blamed for wrong features.
        backbone: The backbone, on `device`.
        device: Device that computes the features.
        view: Mean and standard deviation that pixels are normalised with.
    """
    normalise = normaliser(view, device)
    modes = [(module, module.training) for module in backbone.modules()]

    def extract(pixels: Tensor) -> Mapping[str, Tensor]:
        return run_backbone(component, backbone, normalise(pixels))

    backbone.eval()
    try:
        with torch.no_grad():
            yield extract
    finally:
        for module, training in modes:
            module.training = training


def raw_pixels(pixels: Tensor) -> Mapping[str, Tensor]:
    """Return downscaled pixels as `features` (n 3*32*32), centred per image: a baseline without any network."""
    small = F.interpolate(pixels.float(), (_PIXEL_SIDE, _PIXEL_SIDE), mode="area").flatten(1)
    return {"features": small - small.mean(dim=1, keepdim=True)}


def pooled(rows: Mapping[str, Tensor], pool: str) -> Tensor:
    """Return the features (n f) that a pool makes of a backbone's rows.

    Args:
        rows: `features` (n f) and, for a grid, `map` (n f h w).
        pool: "mean" for the features themselves; "grid-n" for the means of n x n cells of the map, (n f*n*n), the cells
            of one channel adjacent and in rows from the top left. Where n does not divide a side, cells overlap by one
            position, as in `torch.nn.functional.adaptive_avg_pool2d`.
    """
    if pool == "mean":
        return rows["features"]
    cells = int(pool.removeprefix("grid-"))
    return F.adaptive_avg_pool2d(rows["map"], cells).flatten(1)


def extract_features(
    crops: Crops, extractors: Mapping[str, Extractor], pools: Collection[str], device: torch.device,
    progress: Progress = no_progress,
) -> dict[str, dict[str, Sides]]:  # fmt: skip
    """Read the crops once, and return the training and test features of each extractor by pool.

    Rows without a map, such as raw pixels, have the same features for every pool, stored once.

    Args:
        crops: The crops, read in batches. All features are held in memory: n * f * 4 bytes for each extractor and pool.
        extractors: Name -> extractor.
        pools: The pools to apply to each extractor's rows.
        device: Device that probes may compute on.
        progress: Shows how many crops have been read.

    Raises:
        DataError: None of the training images, or none of the test images, can be read.
    """
    tables: dict[str, dict[str, _Table]] = {name: {} for name in extractors}
    for pixels in crops.batches(progress):
        for name, extract in extractors.items():
            rows = extract(pixels)
            for pool in pools if "map" in rows else ("mean",):
                features = pooled(rows, pool).float().cpu()
                if pool not in tables[name]:
                    tables[name][pool] = _Table(crops, features.shape[1])
                tables[name][pool].add(features)
    check_readable(crops)
    sides = {
        name: {pool: table.labelled(device) for pool, table in by_pool.items()} for name, by_pool in tables.items()
    }
    return {name: {pool: by_pool.get(pool) or by_pool["mean"] for pool in pools} for name, by_pool in sides.items()}


class _Table:
    """The features of the training and the test side, filled batch by batch."""

    def __init__(self, crops: Crops, width: int) -> None:
        count = int(crops.test.sum())
        self.crops = crops
        self.train, self.test = torch.empty(len(crops) - count, width), torch.empty(count, width)
        self._trained = self._tested = 0

    def add(self, features: Tensor) -> None:
        """Store the features (n f) of the next n crops."""
        start = self._trained + self._tested
        test = self.crops.test[start : start + len(features)]
        for side, table, first in ((~test, self.train, self._trained), (test, self.test, self._tested)):
            table[first : first + int(side.sum())] = features[side]
        self._trained, self._tested = self._trained + int((~test).sum()), self._tested + int(test.sum())

    def labelled(self, device: torch.device) -> Sides:
        """Return both sides with their labels, without those of unreadable images."""
        test = self.crops.test
        return _labelled(self.crops, ~test, self.train, device), _labelled(self.crops, test, self.test, device)


def private(samples: Labelled) -> Labelled:
    """Return samples that a probe may write into: what it changes reaches no other probe.

    The features (n f), which may be large, share their memory until they are written to.
    """
    return replace(
        samples, features=_LAZY_CLONE(samples.features), labels=samples.labels.clone(),
        categories=(*samples.categories,),
        images=None if samples.images is None else samples.images.clone(),
        ignored=None if samples.ignored is None else samples.ignored.clone(),
    )  # fmt: skip


def check_readable(crops: Crops) -> None:
    """Make sure that both sides have an image that can be read; to be called once the pixels have been read.

    Raises:
        DataError: One of them has none.
    """
    for side, verb in ((~crops.test, "train"), (crops.test, "test")):
        if not crops.readable[side].any():
            count = len(set(crops.images[side].tolist()))
            raise DataError(
                f"none of the {count} images that a probe would {verb} on can be read; the first: {crops.unreadable[0]}"
            )


def _labelled(crops: Crops, side: Tensor, features: Tensor, device: torch.device) -> Labelled:
    """Return features and labels of one side of the split, without those of unreadable images."""
    features, side = features[crops.readable[side]], side & crops.readable
    ignored = None if crops.ignored is None else crops.ignored[side]
    return Labelled(features, crops.labels[side], crops.categories, crops.images[side], ignored, device)
