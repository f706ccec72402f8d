"""The probes of both sides: kNN and a linear classifier on crops of objects whose boxes are loose.

The crops are cut by PIL, once, and are the same for both sides. A box of an object is shifted by up to 15 % of its
sides and made 0.9 to 1.5 times as large, so that objects do not lie in the same place of each crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from learning.by_hand.settings import Settings
from PIL import Image
from torch import Tensor

from sslkit.api import Labelled, no_progress
from sslkit_images.scenes.source import SampleScenes
from sslkit_probes.knn import KNN
from sslkit_probes.linear import Linear
from sslkit_torchvision.small_resnet import SmallResNet

SHIFT, SCALE, MIN_SIDE, LIMIT = 0.15, (0.9, 1.5), 16, 5000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Objects:
    """Crops of objects.

    Attributes:
        pixels: float32 (n 3 s s), normalised.
        labels: int64 (n).
        images: int64 (n): the scene of each.
    """

    pixels: Tensor
    labels: Tensor
    images: Tensor


def scenes(settings: Settings, split: str) -> SampleScenes:
    """Return the scenes, rendered if they are not there."""
    count = settings.images if split == "train" else settings.test_images
    source = SampleScenes(images=count, split=split, side=settings.side)  # type: ignore[arg-type]
    source.prepare(no_progress)
    source.open()
    return source


def files(source: SampleScenes) -> list[Path]:
    """Return the scenes' files."""
    return [source.folder / source.key(index) for index in range(len(source))]


def cut(source: SampleScenes, size: int, seed: int) -> Objects:
    """Cut the objects of all scenes, at most `LIMIT`, from as many scenes as that takes."""
    rng = np.random.default_rng(seed)
    pixels, labels, images = [], [], []
    for index, file in enumerate(files(source)):
        objects = source.objects(index)
        with Image.open(file) as image:
            for box, label in zip(objects.boxes.astype(float), objects.labels, strict=True):
                draws = rng.uniform(size=3)
                if min(box[2:] - box[:2]) >= MIN_SIDE and len(pixels) < LIMIT:
                    pixels.append(_cut(image, _loosen(box, draws), size))
                    labels.append(int(label))
                    images.append(index)
    values = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - _column(MEAN)) / _column(STD)
    return Objects(values, torch.tensor(labels), torch.tensor(images))


def _loosen(box: np.ndarray, draws: np.ndarray) -> np.ndarray:
    sides, middle = box[2:] - box[:2], (box[2:] + box[:2]) / 2
    middle = middle + SHIFT * (2 * draws[:2] - 1) * sides
    half = (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[2]) * sides / 2
    return np.concatenate([middle - half, middle + half])


def _cut(image: Image.Image, box: np.ndarray, size: int) -> np.ndarray:
    low, high = np.maximum(box[:2], 0), np.minimum(box[2:], image.size)
    part = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=(*low, *high), reducing_gap=None)
    return np.asarray(part)


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


@torch.no_grad()
def measure(weights: Mapping[str, Tensor], train: Objects, test: Objects) -> dict[str, float]:
    """Return the top-1 accuracy of both probes on the features of a backbone."""
    backbone = SmallResNet().eval()
    backbone.load_state_dict(dict(weights))
    sides = [Labelled(_features(backbone, side.pixels), side.labels, images=side.images) for side in (train, test)]
    probes = {"knn": KNN(k=min(20, len(train.labels))), "linear": Linear(epochs=30, lrs=(3e-4, 3e-3, 0.03, 0.3))}
    with torch.enable_grad():
        return {name: float(probe.evaluate(*sides)["top1"]) for name, probe in probes.items()}


def _features(backbone: SmallResNet, pixels: Tensor) -> Tensor:
    return torch.cat([backbone(part)["features"] for part in pixels.split(256)])
