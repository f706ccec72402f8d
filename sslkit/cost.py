"""What a plan costs per image: parameters and floating-point operations, measured on shapes, without data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sslkit.networks import StepModule
from sslkit.plan import Plan


@dataclass(frozen=True)
class Cost:
    """Cost of one training step, per image.

    Attributes:
        flops: Forward and backward passes of everything the plan builds (a multiply-add counts two).
        online_parameters: Trained ones, objectives included.
        target_parameters: Followed by the EMA.
    """

    flops: int
    online_parameters: int
    target_parameters: int


def measure(plan: Plan, images: int = 2) -> Cost:
    """Run one step on the meta device and count."""
    with torch.device("meta"):
        step = StepModule(plan)
        batch = _batch(plan, images)
    with FlopCounterMode(display=False) as counter:
        step(batch).loss.backward()
    target = sum(p.numel() for p in step.target.parameters()) if step.target else 0
    trained = sum(p.numel() for p in step.parameters() if p.requires_grad)
    return Cost(counter.get_total_flops() // images, trained, target)


def _batch(plan: Plan, images: int) -> dict[str, Tensor]:
    batch = {"size": torch.zeros(images, 2), "index": torch.zeros(images)}
    for (group, network), views in plan.views.items():
        size = views[0].size
        batch[f"pixels.{group}.{network}"] = torch.zeros(images, len(views), 3, size, size)
        batch[f"boxes.{group}"] = torch.zeros(images, len(views), 4)
        batch[f"flipped.{group}"] = torch.zeros(images, len(views))
    return batch
