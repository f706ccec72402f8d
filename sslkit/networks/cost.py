"""Measure what a plan costs per image (parameters, operations, memory), without data."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from sslkit.errors import PluginError
from sslkit.networks.step_module import StepModule
from sslkit.planning.plan import Plan


@dataclass(frozen=True)
class Cost:
    """Cost of one training step, per image.

    Attributes:
        flops: Operations of the forward and backward passes of all that the plan builds (a multiply-add counts as two).
        online_parameters: Number of trained parameters, including those of objectives.
        target_parameters: Number of parameters that the EMA updates.
        activations: Bytes that the forward pass saves for the backward pass, in float32.
    """

    flops: int
    online_parameters: int
    target_parameters: int
    activations: int = 0


class CostError(PluginError):
    """The cost of a plan cannot be computed; a run of it may be possible all the same."""


def measure(plan: Plan, images: int = 2) -> Cost:
    """Run one step on shapes alone, or where a component reads values, on noise on the CPU; and count.

    Raises:
        CostError: A component fails on noise, too.
    """
    with suppress(Exception):  # of any kind: there are no values to read, print or branch on
        return _measure(plan, images, torch.device("meta"))
    try:
        with torch.random.fork_rng(devices=[]):
            return _measure(plan, images, torch.device("cpu"))
    except PluginError as error:
        raise CostError(f"its cost cannot be computed: on noise, {error}") from error


def _measure(plan: Plan, images: int, device: torch.device) -> Cost:
    with device:
        step = StepModule(plan)
        batch = step_batch(plan, images)
    saved = _SavedTensors(step)
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(saved.pack, saved.unpack):
            loss = step(batch).loss
        with step.backward():
            loss.backward()
    target = sum(p.numel() for p in step.target.parameters()) if step.target else 0
    trained = sum(p.numel() for p in step.parameters() if p.requires_grad)
    return Cost(counter.get_total_flops() // images, trained, target, saved.total // images)


class _SavedTensors:
    """Add up the memory that autograd saves, each storage once and without weights."""

    def __init__(self, step: StepModule) -> None:
        self.seen = {value.untyped_storage()._cdata for value in [*step.parameters(), *step.buffers()]}
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.total += storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        return tensor


def step_batch(plan: Plan, images: int) -> dict[str, Tensor]:
    """Return a batch of noise with the shapes of a plan's batches, on torch's default device."""
    batch = {"size": torch.full((images, 2), 256.0), "index": torch.zeros(images)}
    for (group, network), views in plan.views.items():
        size = views[0].size
        batch[f"pixels.{group}.{network}"] = torch.rand(images, len(views), 3, size, size)
    for group, count in plan.groups.items():
        batch[f"boxes.{group}"] = torch.tensor([0.0, 0.0, 256.0, 256.0]).expand(images, count, 4).clone()
        batch[f"flipped.{group}"] = torch.zeros(images, count)
    return batch
