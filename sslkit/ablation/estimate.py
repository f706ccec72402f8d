"""What an ablation will take, before anything is trained."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from sslkit.ablation.trials import Variant
from sslkit.errors import SslkitError
from sslkit.networks import StepModule
from sslkit.networks.cost import Cost, measure, step_batch
from sslkit.planning.plan import Plan
from sslkit.training.hardware import precision_of

_SLOTS = {"sgd": 1, "lars": 1, "adamw": 2}
"""Tensors that an optimizer keeps for each parameter."""
_FEWEST = 4
"""Images of the first timed step; batch norm needs more than one."""
_ENOUGH_S = 1.0
"""A step that takes longer is timed with no more images."""


@dataclass(frozen=True)
class Estimate:
    """One run of an arm.

    Attributes:
        flops: Per image, forward and backward.
        images: Trained on in all; None where the data cannot be opened.
        hours: On this machine, networks only; None where `images` is.
        memory: Bytes of weights, gradients, optimizer and activations, on one device.
        disk: Bytes of checkpoints and weights.
    """

    flops: int
    images: int | None
    hours: float | None
    memory: int
    disk: int


def estimate(variants: list[Variant], keep: int = 2) -> list[Estimate]:
    """Estimate one run of each arm.

    The first arm's networks are timed on this machine, on noise; the others are scaled by their operations.
    """
    costs = [measure(variant.plan) for variant in variants]
    per_flop = seconds_per_image(variants[0].plan) / costs[0].flops
    return [
        of_one(variant.plan, cost, per_flop * cost.flops, keep) for variant, cost in zip(variants, costs, strict=True)
    ]


def of_one(plan: Plan, cost: Cost, seconds: float, keep: int = 2) -> Estimate:
    """Estimate one run.

    Args:
        plan: What is trained.
        cost: Of an image.
        seconds: That an image takes.
        keep: Checkpoints kept.
    """
    images = _images(plan)
    slots = _SLOTS.get(plan.recipe.optimizer.use, 2)
    trained, target = 4 * cost.online_parameters, 4 * cost.target_parameters
    half = 0.5 if precision_of(plan.recipe) != "32-true" else 1.0
    activations = half * cost.activations * plan.recipe.batch_size / plan.recipe.accumulate
    return Estimate(
        flops=cost.flops, images=images, hours=images * seconds / 3600 if images else None,
        memory=int((2 + slots) * trained + target + activations),
        disk=int(keep * ((1 + slots) * trained + target) + trained),
    )  # fmt: skip


def _images(plan: Plan) -> int | None:
    recipe = plan.recipe
    if recipe.steps:
        return recipe.steps * recipe.batch_size
    try:
        source = plan.source.make()
        if source.missing():
            return None
        source.open()
    except SslkitError:
        return None
    share = len(source) / recipe.batch_size
    steps = math.ceil(share) if recipe.last_batch == "pad" else math.floor(share)
    return math.ceil((recipe.epochs or 0) * steps) * recipe.batch_size


def seconds_per_image(plan: Plan) -> float:
    """Time training steps on noise, forward and backward, with more and more images: few would be mostly overhead."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = StepModule(plan).to(device)
    most = plan.recipe.batch_size // plan.recipe.accumulate
    images, seconds = 0, 0.0
    while images < most and seconds < _ENOUGH_S:
        images = min(4 * images or _FEWEST, most)
        seconds = step_seconds(step, plan, images, device)
    return seconds / images


def step_seconds(
    step: StepModule, plan: Plan, images: int, device: torch.device, precision: str | None = None
) -> float:
    """Return how long the faster of two steps takes, forward and backward, on noise.

    Args:
        step: On the device.
        plan: That it was made of.
        images: Of a step.
        device: To compute on.
        precision: The recipe's by default.
    """
    batch = {name: value.to(device) for name, value in step_batch(plan, images).items()}
    own = precision or precision_of(plan.recipe, device.type)
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(own)
    best = math.inf
    for _ in range(2):
        began = time.perf_counter()
        with torch.autocast(device.type, kind, enabled=kind is not None):
            loss = step(batch).loss
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
