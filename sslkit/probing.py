"""Measure a frozen backbone on labelled crops, beside raw pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkit import boxes, images
from sslkit.api import Labelled, Objects, Progress, Source, no_progress
from sslkit.errors import DataError
from sslkit.plan import Plan
from sslkit.recipe import ProbeTable, View
from sslkit.seeds import generator

_PIXEL_SIDE = 32
_BATCH = 256

Figures = dict[str, dict[str, float]]
"""Probe -> metric -> value."""


@dataclass(frozen=True)
class Crops:
    """Labelled square crops, split by image so that no image is on both sides.

    Attributes:
        pixels: uint8 (n 3 s s).
        labels: int64 (n).
        test: bool (n).
    """

    pixels: Tensor
    labels: Tensor
    test: Tensor
    categories: tuple[str, ...]

    def split(self, features: Tensor) -> tuple[Labelled, Labelled]:
        """Return training and test features with their labels."""
        parts = [Labelled(features[side], self.labels[side], self.categories) for side in (~self.test, self.test)]
        return parts[0], parts[1]


def gather(source: Source, table: ProbeTable, seed: int, progress: Progress = no_progress) -> Crops:
    """Cut labelled crops from an opened source, in a fixed random order of its images.

    Raises:
        DataError: There are no labels, or only one category.
    """
    rng = generator(seed, "probe")
    order, tested = rng.permutation(len(source)), rng.random(len(source)) < table.test_share
    found: list[tuple[images.Image, int, bool]] = []
    for place, index in enumerate(order):
        progress("probe crops", place, len(order))
        found += [(crop, label, bool(tested[index])) for crop, label in _crops(source, int(index), table)]
        if table.limit and len(found) >= table.limit:
            break
    found = found[: table.limit]
    progress("probe crops", len(order), len(order))
    if len({label for _, label, _ in found}) < 2:
        raise DataError(
            f"a probe needs labelled {table.crops} of two categories or more; "
            f"source '{source.name}' gave {len(found)} crops"
        )
    pixels, labels, test = zip(*found, strict=True)
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    return Crops(stacked, torch.tensor(labels), torch.tensor(test), tuple(source.categories))


def _crops(source: Source, index: int, table: ProbeTable) -> Iterator[tuple[images.Image, int]]:
    found = source.objects(index) if table.crops == "objects" else _whole(source, index)
    keep = boxes.sides(found.boxes).min(axis=1, initial=np.inf) >= table.min_side
    if keep.any():
        image = images.decode(source.read(index), source.key(index))
        yield from zip(
            images.cuts(image, found.boxes[keep], table.size, "bicubic"), found.labels[keep].tolist(), strict=True
        )


def _whole(source: Source, index: int) -> Objects:
    """Return the image as one object, where it has a label; cutting clips its box."""
    label = source.label(index)
    if label is None:
        return Objects(boxes.empty(), np.zeros(0, np.int64))
    return Objects(np.array([[0, 0, np.inf, np.inf]], np.float32), np.array([label], np.int64))


@torch.no_grad()
def features(backbone: nn.Module, pixels: Tensor, device: torch.device) -> Tensor:
    """Return frozen features (n f), float32 on the CPU; the backbone is in eval mode meanwhile."""
    view = View()
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (view.mean, view.std))
    training = backbone.training
    backbone.eval()
    parts = [
        backbone(((part.to(device).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last))[
            "features"
        ]
        .float()
        .cpu()
        for part in torch.split(pixels, _BATCH)
    ]
    backbone.train(training)
    return torch.cat(parts)


def raw_pixels(pixels: Tensor) -> Tensor:
    """Return downscaled pixels as features (n 3*32*32), centred per image: what no network has to learn."""
    small = F.interpolate(pixels.float(), (_PIXEL_SIDE, _PIXEL_SIDE), mode="area").flatten(1)
    return small - small.mean(dim=1, keepdim=True)


class Probing:
    """The probes of a plan, with their crops cut once."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.probes = {name: made.make() for name, (made, _) in plan.probes.items()}
        self.crops: dict[str, Crops] = {}
        kept: dict[str, Crops] = {}
        for name, (_, source) in plan.probes.items():
            table = plan.recipe.probes[name]
            same = repr(
                (
                    source.component.id,
                    source.options,
                    table.model_dump(exclude={"use", "source"} | set(table.options)),
                )
            )
            if same not in kept:
                kept[same] = gather(_opened(source.make(), progress), table, plan.recipe.seed, progress)
            self.crops[name] = kept[same]

    def of_backbone(self, backbone: nn.Module, device: torch.device) -> Figures:
        """Measure a backbone; it is left as it was."""
        made: dict[int, Tensor] = {}
        for crops in self.crops.values():
            if id(crops) not in made:
                made[id(crops)] = features(backbone, crops.pixels, device)
        return {name: self._one(name, made[id(crops)]) for name, crops in self.crops.items()}

    def of_pixels(self) -> Figures:
        """Measure raw pixels in place of features."""
        return {name: self._one(name, raw_pixels(crops.pixels)) for name, crops in self.crops.items()}

    def _one(self, name: str, values: Tensor) -> dict[str, float]:
        return dict(self.probes[name].evaluate(*self.crops[name].split(values)))


def _opened(source: Source, progress: Progress) -> Source:
    missing = source.missing()
    if missing:
        raise DataError(missing)
    source.prepare(progress)
    source.open()
    return source
