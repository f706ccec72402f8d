"""Estimate the time, memory and disk space of an ablation before anything is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sslkit.ablation.plan import Variant
from sslkit.data.epochs import Epochs
from sslkit.data.opening import make_source
from sslkit.errors import SslkitError
from sslkit.networks import StepModule
from sslkit.networks.cost import Cost, measure, step_batch
from sslkit.planning.plan import Plan
from sslkit.training import precision
from sslkit.training.hardware import precision_of
from sslkit.training.options import DeviceOptions

_OPTIMIZER_SLOTS = {"sgd": 1, "lars": 1, "adamw": 2}
"""Tensors that an optimizer keeps for each parameter."""
_FIRST_IMAGES = 4
"""Images of the first timed step; batch norm needs more than one."""
_ENOUGH_S = 1.0
"""No more images are added once a step takes longer than this."""


@dataclass(frozen=True)
class Estimate:
    """The cost of one run of an arm.

    Attributes:
        flops: Operations per image, forward and backward.
        images: Images trained on in total, over all epochs; None if the data cannot be opened.
        hours: Hours on this machine, for the networks only; None if `images` is None.
        memory: Bytes of weights, gradients, optimizer state and activations, on one device.
        disk: Bytes of checkpoints and weights.
    """

    flops: int
    images: int | None
    hours: float | None
    memory: int
    disk: int


def estimate(variants: list[Variant], keep: int = 2) -> list[Estimate]:
    """Estimate one run of each arm.

    The first arm's networks are timed on this machine, on noise; the times of the others follow from their operations.

    Args:
        variants: The arms.
        keep: Number of checkpoints to keep.
    """
    plans = _as_first(variant.plan for variant in variants)
    costs = [measure(plan) for plan in plans]
    per_flop = seconds_per_image(plans[0]) / costs[0].flops
    return [estimate_run(plan, cost, per_flop * cost.flops, keep) for plan, cost in zip(plans, costs, strict=True)]


def _as_first(plans: Iterable[Plan]) -> list[Plan]:
    """Return plans whose precision is settled: where it is "auto", all arms compute as the first of them does."""
    choice: precision.AutoChoice | None = None
    settled = []
    for plan in plans:
        if plan.recipe.precision == "auto":
            choice = choice or precision.choose(plan, DeviceOptions())
            plan = precision.with_choice(plan, choice)
        settled.append(plan)
    return settled


def estimate_run(plan: Plan, cost: Cost, seconds: float, keep: int = 2) -> Estimate:
    """Estimate one run.

    Args:
        plan: Plan of the run.
        cost: Cost of one image.
        seconds: Seconds per image.
        keep: Number of checkpoints to keep.
    """
    images = _images(plan)
    slots = _OPTIMIZER_SLOTS.get(plan.recipe.optimizer.use, 2)
    trained, target = 4 * cost.online_parameters, 4 * cost.target_parameters
    half = 0.5 if precision_of(plan.recipe) != "32-true" else 1.0
    activations = half * cost.activations * plan.recipe.batch_size / plan.recipe.accumulate
    return Estimate(
        flops=cost.flops, images=images, hours=images * seconds / 3600 if images else None,
        memory=int((2 + slots) * trained + target + activations),
        disk=int(keep * ((1 + slots) * trained + target) + trained),
    )  # fmt: skip


def _images(plan: Plan) -> int | None:
    """Return the number of images that a run trains on, over all epochs."""
    recipe = plan.recipe
    if recipe.steps:
        return recipe.steps * recipe.batch_size
    try:
        source = make_source(plan.source)
        if source.missing():
            return None
        source.open()
    except SslkitError:
        return None
    return recipe.total_steps(Epochs.of(recipe, len(source)).steps) * recipe.batch_size


def seconds_per_image(plan: Plan) -> float:
    """Time steps on noise, forward and backward, with more and more images, as overhead dominates small batches."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = StepModule(plan).to(device)
    limit = plan.recipe.batch_size // plan.recipe.accumulate
    images, seconds = 0, 0.0
    while images < limit and seconds < _ENOUGH_S:
        images = min(4 * images or _FIRST_IMAGES, limit)
        seconds = step_seconds(step, plan, images, device)
    return seconds / images


def step_seconds(
    step: StepModule, plan: Plan, images: int, device: torch.device, compute_in: str | None = None
) -> float:
    """Return the seconds of the faster of two steps on noise, forward and backward.

    Args:
        step: The step module, on the device.
        plan: The plan that the module was built from.
        images: Images per step.
        device: Device to compute on.
        compute_in: Precision to compute in; the recipe's by default.
    """
    batch = {name: value.to(device) for name, value in step_batch(plan, images).items()}
    compute_in = compute_in or precision_of(plan.recipe, device.type)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(compute_in)
    best = math.inf
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = step(batch).loss
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best
