"""One optimizer step."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sslkit.data.bad_images import BadImage
from sslkit.data.loader import Loader
from sslkit.data.prefetch import Prefetcher, Reading
from sslkit.data.views import to_device
from sslkit.networks import cuda_graph, sharding
from sslkit.networks.step_module import StepOutput
from sslkit.schedules import cosine_schedule, target_momentum
from sslkit.seeds import seed_all
from sslkit.training.agreement import Agreement
from sslkit.training.divergence import NonFiniteError
from sslkit.training.engine import Engine
from sslkit.training.interrupt import Interrupt
from sslkit.training.setup import Setup
from sslkit.training.state import TrainState


@dataclass
class MicroBatches:
    """The micro-batches of one step, and their results.

    Attributes:
        batches: Images and boxes of each micro-batch.
        bad: Images that could not be used.
        waiting: Seconds spent waiting for data.
    """

    outputs: list[StepOutput] = field(default_factory=list)
    batches: list[dict[str, Tensor]] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)
    waiting: float = 0.0


class TrainStep:
    """Take the optimizer steps of a run, one at each call.

    Attributes:
        state: The state that checkpoints hold; its `step` counts the steps done.
        interrupt: Whether the run was asked to stop.
        reads_ahead: Whether the next batch is prepared while the device is busy.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.network, self.recipe = setup, setup.network, setup.recipe
        self.state = TrainState(setup)
        self.engine = Engine(setup)
        self.interrupt = Interrupt()
        self.agreement = Agreement(setup.fabric, self.interrupt, self.state.bad)
        self.graph = cuda_graph.StepGraph(self.forward_backward, self.network) if setup.options.cuda_graph else None
        self.first = True
        self.prefetcher: Prefetcher | None = None
        self.reads_ahead = setup.device.type == "cuda"

    def __call__(self, loader: Loader) -> dict[str, float]:
        """Take one optimizer step.

        Returns:
            Losses, terms, monitors, and how the step went: `lr`, `target_momentum`, `images_per_s`, and `waiting`, the
            share of its time that it waited for data.

        Raises:
            NonFiniteError: A loss or gradient is not finite; the networks were not updated.
            PluginError: A component failed or broke its contract.
        """
        started, state = time.monotonic(), self.state
        lr = self.schedule()
        state.snapshot()
        micro = self.accumulate(loader)
        terms = self.all_reduce(micro)
        self.check_finite(terms, micro)
        measured = self.measure(micro)
        self.engine.clip_gradients()
        self.engine.optimizer_step()
        self.engine.zero_grad()
        momentum = self.momentum()
        self.network.update_target(momentum)
        self.network.after_step(state.step + 1, (state.step + 1) / self.setup.epochs.steps)
        state.kept.try_restoring()
        state.step += 1
        seconds = time.monotonic() - started
        return terms | measured | {
            "lr": lr, "target_momentum": momentum,
            "images_per_s": self.recipe.batch_size / seconds, "waiting": micro.waiting / seconds,
        }  # fmt: skip

    # ---------------------------------------------------------------------------------------------- schedules

    def schedule(self) -> float:
        """Set and return the learning rate of this step, and set weight decay if that has a schedule."""
        step, lr, end = self.state.step, self.setup.lr(self.state.step), self.recipe.optimizer.final_weight_decay
        for group in self.setup.optimizer.param_groups:
            group["lr"] = lr
            if end is not None and group["scaled"]:  # biases and norms may have none
                start = self.setup.plan.optimizer["weight_decay"]
                group["weight_decay"] = cosine_schedule(step, self.setup.steps, start, end)
        return lr

    def momentum(self) -> float:
        """Return the target momentum of this step."""
        table = self.recipe.target
        step, steps = self.state.step, self.setup.steps
        return target_momentum(step, steps, table.momentum, table.momentum_end, table.schedule)

    # ------------------------------------------------------------------------------------- forward and backward

    def accumulate(self, loader: Loader) -> MicroBatches:
        """Run forward and backward on every micro-batch of the step; gradients add up."""
        micro = MicroBatches()
        seed, step, count = self.recipe.seed, self.state.step, self.recipe.accumulate
        for part in range(count):
            batch = self.next_batch(loader, micro)
            # After the data: a loader that is new after a resume draws random numbers itself.
            seed_all(seed, "pass", step, part, self.setup.fabric.global_rank)
            measure = part == 0 and self.state.monitors.conflict_map_due(step + 1)
            with self.engine.without_sync(when=part < count - 1):
                recorded = self.graph is not None and not measure
                output = self.graph(batch) if self.graph and recorded else self.forward_backward(batch, measure)
            micro.outputs.append(output)
        return micro

    def next_batch(self, loader: Loader, micro: MicroBatches) -> dict[str, Any]:
        """Return the next micro-batch on the device; add its data to `micro`."""
        started = time.monotonic()
        if self.prefetcher is None or self.prefetcher.batches is not loader:  # a rollback drops a batch read ahead
            self.prefetcher = Prefetcher(loader, partial(_call, weakref.WeakMethod(self.fetch)))
        batch = self.prefetcher.take()
        if self.engine.is_sharded:
            sharding.broadcast_buffers(self.network)
        micro.waiting += time.monotonic() - started
        self.state.counts.add(batch.pop("counts"), self.state.step % self.setup.epochs.steps)
        micro.bad += batch.pop("bad")
        micro.batches.append({name: batch[name] for name in batch if name == "index" or name.startswith("boxes.")})
        return batch

    def fetch(self, loader: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Return the loader's next batch, ready for the networks."""
        return to_device(next(loader), self.setup.plan.views, self.setup.device)

    def forward_backward(self, batch: Mapping[str, Any], measure: bool = False) -> StepOutput:
        """Run forward and backward on one micro-batch."""
        first, self.first = self.first, False
        output, count = self.engine.forward(batch, measure, first), self.recipe.accumulate
        with self.network.backward():
            self.engine.backward(output.loss if count == 1 else output.loss / count)
        if first:
            self.network.refuse_unreached()
        return output

    # ------------------------------------------------------------------------------------- before the update

    def all_reduce(self, micro: MicroBatches, last: bool = False) -> dict[str, float]:
        """Average losses, terms and monitors over micro-batches and ranks; add the gradient norm.

        In the same message, ranks tell each other of signals to stop, so that all stop after the same step, and of bad
        images. On a GPU the next batch is prepared meanwhile.

        Args:
            micro: This rank's micro-batches.
            last: Whether there is no further batch to read.
        """
        bad = self.state.bad.new(micro.bad)
        losses = [{"loss": output.loss.detach(), **output.terms, **output.monitors} for output in micro.outputs]
        values = torch.stack([*_averaged(losses, self.setup.device), self.engine.gradient_norm().float()])
        reading = self.agreement.start(values, bad)
        if self.reads_ahead and not last:
            self.read_ahead(reading, micro)
        return dict(zip([*losses[0], "grad_norm"], self.agreement.finish(reading, bad), strict=True))

    def read_ahead(self, reading: Reading, micro: MicroBatches) -> None:
        """Prepare the next batch; the time counts as waiting if the device finishes first."""
        assert self.prefetcher is not None
        started = time.monotonic()
        self.prefetcher.start()
        if reading.ready:
            micro.waiting += time.monotonic() - started

    def check_finite(self, terms: Mapping[str, float], micro: MicroBatches) -> None:
        """Refuse to update the networks with anything that is not finite. A monitor may be NaN: it changes no weight.

        Raises:
            NonFiniteError: A loss, term or the gradient norm is not finite.
        """
        if all(map(math.isfinite, terms.values())):
            return
        losses = {name: value for name, value in terms.items() if name not in micro.outputs[0].monitors}
        if self.recipe.precision == "16-mixed":  # its loss scaler skips such gradients by itself
            losses.pop("grad_norm")
        names = [name for name, value in losses.items() if not math.isfinite(value)]
        if names:
            raise NonFiniteError(self.state.step + 1, names, terms, self.setup.lr(self.state.step), micro.batches)

    def measure(self, micro: MicroBatches) -> dict[str, float]:
        """Return what is measured only at some steps: feature ranks, of rank 0's images, and the conflict map."""
        fabric, monitors = self.setup.fabric, self.state.monitors
        if fabric.is_global_zero:
            for output in micro.outputs:
                monitors.add(output.rows)
        if not monitors.due(self.state.step + 1):
            return {}
        measured = monitors.ranks() | micro.outputs[0].measured if fabric.is_global_zero else {}
        return fabric.broadcast(measured) if fabric.world_size > 1 else measured


def _call(method: weakref.WeakMethod[Any], *arguments: Any) -> Any:
    """Call a method of an object that is still there; what holds the method does not keep its object."""
    bound = method()
    assert bound is not None
    return bound(*arguments)


def _averaged(losses: Sequence[Mapping[str, Tensor]], device: torch.device) -> Sequence[Tensor]:
    """Return the mean over micro-batches of each scalar, in float32."""
    rows = [[_plain(one[name], device) for name in losses[0]] for one in losses]
    return rows[0] if len(rows) == 1 else torch.stack([torch.stack(row) for row in rows]).mean(dim=0).unbind()


def _plain(value: Tensor, device: torch.device) -> Tensor:
    """Return a scalar in float32 on a device; one that is so already is not touched."""
    return value if value.dtype is torch.float32 and value.device == device else value.to(device, torch.float32)
