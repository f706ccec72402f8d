"""BYOL by hand: lightly's heads, loss, transforms and schedule, torch's optimizer, and a plain loop over PIL images.

Of sslkit it uses the class of the backbone alone. The loop is that of lightly's example, with two differences: both
views pass the networks one after the other, as there, but the target moves after the optimizer's step, at a momentum
that changes with every step. lightly's example moves it before the forward pass, which is the same but for the first
step, and changes the momentum once an epoch.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from learning.by_hand.settings import Settings
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.utils.data import DataLoader, Dataset

from sslkit_torchvision.small_resnet import SmallResNet

Save = Callable[[int, nn.Module], None]
"""Takes the number of steps done and the online backbone."""


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each image file."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], list[Tensor]]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.files[index]) as image:
            first, second = self.transform(image.convert("RGB"))
        return first, second


def make_transform(settings: Settings) -> BYOLTransform:
    """Return lightly's transform."""
    brightness, contrast, saturation, hue = settings.jitter
    shared = {
        "input_size": settings.size, "min_scale": settings.scale[0], "cj_prob": settings.jitter_probability,
        "cj_bright": brightness, "cj_contrast": contrast, "cj_sat": saturation, "cj_hue": hue,
        "random_gray_scale": settings.grayscale, "hf_prob": settings.flip, "gaussian_blur": 0.0,
    }  # fmt: skip
    return BYOLTransform(
        BYOLView1Transform(**shared, solarization_prob=0.0),
        BYOLView2Transform(**shared, solarization_prob=settings.solarize),
    )


class Byol(nn.Module):
    """Both networks, as in lightly's example."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.backbone = SmallResNet()
        self.projector = BYOLProjectionHead(self.backbone.dim, settings.hidden, settings.out)
        if settings.last_norm:
            self.projector.layers.append(nn.BatchNorm1d(settings.out, affine=False))
        self.predictor = BYOLPredictionHead(settings.out, settings.hidden, settings.out)
        self.target_backbone = copy.deepcopy(self.backbone)
        self.target_projector = copy.deepcopy(self.projector)
        deactivate_requires_grad(self.target_backbone)
        deactivate_requires_grad(self.target_projector)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of two views of the same images, each (b 3 s s)."""
        p1, z1 = self.predict(first), self.project(first)
        p2, z2 = self.predict(second), self.project(second)
        return 0.5 * (self.criterion(p1, z2) + self.criterion(p2, z1))

    def predict(self, x: Tensor) -> Tensor:
        """Return the online network's predictions."""
        predictions: Tensor = self.predictor(self.projector(self.backbone(x)["features"]))
        return predictions

    @torch.no_grad()
    def project(self, x: Tensor) -> Tensor:
        """Return the target network's projections."""
        projections: Tensor = self.target_projector(self.target_backbone(x)["features"])
        return projections

    def move_target(self, momentum: float) -> None:
        """Move the target's parameters towards the online ones."""
        update_momentum(self.backbone, self.target_backbone, m=momentum)
        update_momentum(self.projector, self.target_projector, m=momentum)


def make_optimizer(model: nn.Module, settings: Settings) -> Optimizer:
    """Return AdamW; weight decay is for matrices and kernels, not for biases and batch norm."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=settings.lr)


def make_scheduler(optimizer: Optimizer, settings: Settings) -> LRScheduler:
    """Return torch's linear warm-up, followed by torch's cosine."""
    cosine = CosineAnnealingLR(optimizer, T_max=settings.steps - settings.warmup)
    if not settings.warmup:
        return cosine
    warmup = LinearLR(optimizer, start_factor=settings.warmup_start, total_iters=settings.warmup)
    return SequentialLR(optimizer, [warmup, cosine], [settings.warmup])


def train(files: Sequence[Path], settings: Settings, seed: int, save: Save) -> None:
    """Train on image files, and save the backbone at the settings' points."""
    seed_all(seed)
    model = Byol(settings).train()
    optimizer = make_optimizer(model, settings)
    scheduler = make_scheduler(optimizer, settings)
    loader = DataLoader(Pairs(files, make_transform(settings)), settings.batch, shuffle=True, drop_last=True)
    batches = endless(loader)
    if 0 in settings.points:
        save(0, model.backbone)
    for step in range(settings.steps):
        take_step(model, optimizer, *next(batches), cosine_schedule(step, settings.steps, settings.momentum, 1.0))
        scheduler.step()
        if step + 1 in settings.points:
            save(step + 1, model.backbone)


def take_step(model: Byol, optimizer: Optimizer, first: Tensor, second: Tensor, momentum: float) -> float:
    """Take one optimizer step, move the target, and return the loss."""
    loss = model(first, second)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.move_target(momentum)
    return loss.item()


def seed_all(seed: int) -> None:
    """Seed every generator that lightly's transforms, torch's loader and the networks draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of one epoch after another."""
    while True:
        yield from loader
