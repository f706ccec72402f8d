"""One optimizer step: forward and backward over its passes, what all processes agree on, and the update."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslkit.api import Proposals, Source
from sslkit.data.bad_images import BadImage, BadImages
from sslkit.data.cache import GB, Cache
from sslkit.data.epochs import Epochs, listing
from sslkit.data.loader import Loader
from sslkit.data.prefetch import Prefetcher, Reading
from sslkit.data.views import ViewDataset, to_device
from sslkit.errors import DataError
from sslkit.folders import cores
from sslkit.networks import activation_checkpointing, cuda_graph, sharding, small_maps
from sslkit.networks.monitors import EVERY_STEP, Monitors
from sslkit.networks.step_module import StepModule, StepOutput
from sslkit.optim import make_optimizer
from sslkit.planning.plan import Plan
from sslkit.schedules import LearningRate, cosine_schedule, target_momentum
from sslkit.seeds import seed_all
from sslkit.training import flight_record
from sslkit.training.collapse import CollapseDetector, Facts
from sslkit.training.hardware import is_alone, precision_of
from sslkit.training.interrupt import Interrupt
from sslkit.training.options import RunOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class NotFinite(Exception):  # noqa: N818 - nobody sees it: the trainer says what it means
    """A loss or gradient is not finite; the optimizer step was not made.

    Attributes:
        names: Of the terms that are not finite.
        terms: All of them.
        batches: Images and boxes of each pass.
    """

    def __init__(self, names: list[str], terms: Mapping[str, float], batches: list[dict[str, Tensor]]) -> None:
        super().__init__(", ".join(names))
        self.names, self.terms, self.batches = names, terms, batches


@dataclass
class Passes:
    """What the passes of one step took and gave.

    Attributes:
        batches: Images and boxes of each.
        bad: Images that could not be used.
        waited: Seconds for data.
    """

    outcomes: list[StepOutput] = field(default_factory=list)
    batches: list[dict[str, Tensor]] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)
    waited: float = 0.0


class Stepper:
    """The networks of a plan and all that a step depends on: what a checkpoint keeps.

    Attributes:
        step: Optimizer steps done.
        steps: Of the whole run.
        counts: What the sampler counted, averaged over the epoch so far.
        counts_before: The same before the step.
        said: What is to be said of images that could not be used, since `bad` last changed.

    Raises:
        DataError: Processes see different images, or these make no batch.
    """

    def __init__(
        self, plan: Plan, options: RunOptions, fabric: Fabric, source: Source, proposals: Proposals | None
    ) -> None:
        recipe = plan.recipe
        self.plan, self.options, self.fabric, self.source, self.proposals = plan, options, fabric, source, proposals
        self.epochs = Epochs(
            len(source), recipe.batch_size, recipe.accumulate, recipe.seed,
            recipe.last_batch == "pad", fabric.global_rank, fabric.world_size,
        )  # fmt: skip
        self.listing = listing(source)
        self._all_see_the_same()
        if not self.epochs.steps:
            what = f"{len(source)} images make no batch of {recipe.batch_size}"
            raise DataError(f'{what}: write a smaller batch_size, or last_batch = "pad"')
        self.steps = recipe.steps or max(1, math.ceil(recipe.epochs * self.epochs.steps - 1e-9))  # type: ignore[operator]
        self.lr = self._learning_rate()
        self.network = self.make_network()
        if options.checkpoint_activations:
            activation_checkpointing.recompute(self.network.online.backbone)
        if fabric.device.type == "cpu" and precision_of(recipe) == "bf16-mixed":
            small_maps.guard(self.network)
        if options.compile:
            self.network.compile_backbones()
        if options.cuda_graph:
            cuda_graph.check(recipe, precision_of(recipe), fabric)
        self.module = fabric.setup_module(self.network)
        self.sharded = sharding.is_sharded(self.network)
        self.alone = is_alone(fabric) and recipe.precision != "16-mixed"  # whose losses are scaled
        self.graph = cuda_graph.StepGraph(self.one_pass, self.network) if options.cuda_graph else None
        optimizer = make_optimizer(recipe.optimizer.use, self.network, self.lr(0), plan.optimizer)
        if recipe.precision == "16-mixed":  # Fabric does not clip where an optimizer unscales gradients by itself
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        made = fabric.setup_optimizers(optimizer)
        assert not isinstance(made, tuple)
        self.optimizer = made
        if fabric.world_size > 1:
            self.network.gather, self.network.mean = self._gather, self._mean
        self.ahead: Prefetcher | None = None
        self.looks_ahead = fabric.device.type == "cuda"
        self.cache = self._cache()
        self.stop = Interrupt()
        self.step = 0
        self.counts: dict[str, float] = {}
        self.counts_before = self.counts
        self.buffers = flight_record.Buffers(self.network)
        self.trained = [held for held in self.network.parameters() if held.requires_grad]
        self.bad = BadImages(len(source), recipe.max_bad_images, recipe.max_bad_share)
        self.said: list[str] | None = None
        self.monitors = Monitors(options.monitor_every, whole=not self.sharded)
        self.sentinel = CollapseDetector(self._facts())

    def _all_see_the_same(self) -> None:
        """Refuse processes, as on machines with folders of their own, whose images are not the first one's."""
        first = self.fabric.broadcast(self.listing)
        if first != self.listing:
            raise DataError(
                f"process {self.fabric.global_rank} sees other images than process 0: {self.listing['images']} and "
                f"{first['images']}; all machines must see the same files"
            )

    def make_network(self) -> StepModule:
        """Make both networks and the objectives, with equal weights in every process."""
        network = StepModule(self.plan)
        if self.shares_batch_norm:
            network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return network

    @property
    def shares_batch_norm(self) -> bool:
        """Whether batch norm takes its statistics over all processes; torch has that on GPUs only."""
        wanted = self.plan.recipe.forward.sync_batch_norm
        return wanted and self.fabric.world_size > 1 and self.fabric.device.type == "cuda"

    def _facts(self) -> Facts:
        """Tell the sentinel what this recipe does against collapse."""
        recipe, online = self.plan.recipe, self.network.online
        heads = [part for made in (online.projectors, online.predictors) for part in made.modules()]
        return Facts(
            predicts=any(row.kind == "prediction" for row in self.plan.rows),
            couples=any(item.made.component.cls.couples_batch for item in self.plan.objectives),
            target=self.plan.has("target"), momentum=(recipe.target.momentum, recipe.target.momentum_end),
            batch_norm=any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in heads),
            images=recipe.batch_size // (recipe.accumulate * self.fabric.world_size),
            lr=self.lr.base, warmup=self.lr.warmup,
        )  # fmt: skip

    def _learning_rate(self) -> LearningRate:
        table = self.plan.recipe.optimizer
        warmup = round(table.warmup_epochs * self.epochs.steps)
        return LearningRate(
            base=table.lr(self.plan.recipe.batch_size), steps=self.steps, warmup=warmup,
            warmup_start_ratio=table.warmup_start, final=table.final_lr * table.lr(self.plan.recipe.batch_size),
            decay_from=table.decay_from,
        )  # fmt: skip

    def _gather(self, rows: Tensor) -> Tensor:
        """Join rows (b ...) of all processes in the order of their ranks; gradients are summed on their way back."""
        joined = self.fabric.all_gather(rows, sync_grads=True)
        assert isinstance(joined, Tensor)
        if joined.requires_grad:  # over gloo, parts of a gradient that is not contiguous would be mixed up
            joined.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        return joined.flatten(0, 1)

    def _mean(self, values: Tensor) -> Tensor:
        """Average values over all processes."""
        mean = self.fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    # --------------------------------------------------------------------------------------------- a step

    def feed(self, stop: int) -> Loader:
        """Return the batches of the steps from here to `stop`."""
        items = self.epochs.micro_batches(self.step, stop)
        device = self.fabric.device
        dataset = ViewDataset(self.plan, self.source, self.proposals, device.type == "cpu", self.cache)
        return Loader(dataset, items, self._workers(), device)

    def _cache(self) -> Cache | None:
        """Make room for decoded images: this process' share of what its machine may hold."""
        room = round(self.options.cache_gb * GB) * self.options.nodes // self.fabric.world_size
        return Cache(len(self.source), room) if room else None

    def _workers(self) -> int:
        if self.options.workers is not None:
            return self.options.workers
        return max(0, min(8, cores() - 1))

    def optimizer_step(self, feed: Loader) -> dict[str, float]:
        """Accumulate gradients over the step's passes, check them, move the online network, then the target.

        Returns:
            Losses, terms, monitors and what else is told of a step; `step` is one more then.

        Raises:
            NotFinite: A loss or gradient is not finite.
        """
        began = time.monotonic()
        lr = self.schedule()
        self.buffers.keep()
        self.counts_before = dict(self.counts)
        taken = self.passes(feed)
        terms = self.agree(taken.outcomes, self.bad.new(taken.bad), taken)
        self.guard(terms, taken.batches)
        measured = self.measured(taken.outcomes)
        self.clip()
        self.update()
        self.drop_gradients()
        momentum = self.momentum()
        self.network.update_target(momentum)
        self.network.after_step(self.step + 1, (self.step + 1) / self.epochs.steps)
        self.step += 1
        seconds = time.monotonic() - began
        return terms | measured | {
            "lr": lr, "target_momentum": momentum,
            "images_per_s": self.plan.recipe.batch_size / seconds, "waiting": taken.waited / seconds,
        }  # fmt: skip

    def schedule(self) -> float:
        """Set this step's learning rate, which is returned, and weight decay where that has a schedule."""
        lr, end = self.lr(self.step), self.plan.recipe.optimizer.final_weight_decay
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if end is not None and group["scaled"]:  # biases and norms may have none
                group["weight_decay"] = cosine_schedule(self.step, self.steps, self.plan.optimizer["weight_decay"], end)
        return lr

    def passes(self, feed: Loader) -> Passes:
        """Go forward and backward over all that a step takes."""
        taken = Passes()
        accumulate = self.plan.recipe.accumulate
        for part in range(accumulate):
            asked = time.monotonic()
            batch = self.batches(feed).take()
            if self.sharded:
                sharding.align(self.network)
            taken.waited += time.monotonic() - asked
            self.count(batch.pop("counts"))
            taken.bad += batch.pop("bad")
            taken.batches.append({name: batch[name] for name in batch if name == "index" or name.startswith("boxes.")})
            # Behind the data: a loader that is new after a resume takes random numbers of its own.
            seed_all(self.plan.recipe.seed, "pass", self.step, part, self.fabric.global_rank)
            measure = part == 0 and self.monitors.maps(self.step + 1)
            with self.unsynced(part < accumulate - 1):
                outcome = self.graph(batch) if self.graph and not measure else self.one_pass(batch, measure)
            taken.outcomes.append(outcome)
        return taken

    def one_pass(self, batch: Mapping[str, Any], measure: bool = False) -> StepOutput:
        """Go forward and backward."""
        outcome = self.forward(batch, measure)
        accumulate = self.plan.recipe.accumulate
        self.backward(outcome.loss if accumulate == 1 else outcome.loss / accumulate)
        return outcome

    # A process by itself does without Fabric's wrappers: they would look at every tensor, and do no more than this.

    def forward(self, batch: Mapping[str, Any], measure: bool) -> StepOutput:
        """Go forward."""
        if not self.alone:
            return self.module(batch, measure=measure)  # type: ignore[no-any-return]
        with self.fabric.autocast():
            return self.network(batch, measure)  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Go backward."""
        if self.alone:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.fabric.backward(loss)

    def update(self) -> None:
        """Move the online network."""
        if self.alone:
            self.optimizer.optimizer.step()
        else:
            self.optimizer.step()

    def unsynced(self, wanted: bool) -> AbstractContextManager[None]:
        """Leave gradients in their processes inside the block, where that is wanted: a later pass brings them along."""
        return self.fabric.no_backward_sync(self.module) if wanted else nullcontext()

    def batches(self, feed: Loader) -> Prefetcher:
        """Return the batches of a feed on the device."""
        if self.ahead is None or self.ahead.feed is not feed:  # after a rollback, a batch of the old one is dropped
            self.ahead = Prefetcher(feed, self.fetch)
        return self.ahead

    def fetch(self, feed: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Return the next batch, ready for the networks."""
        return to_device(next(feed), self.plan.views, self.fabric.device)

    def count(self, counts: Mapping[str, float]) -> None:
        """Average what the sampler counted over the epoch so far."""
        place = self.step % self.epochs.steps
        if place == 0:
            self.counts = {}
        for name, value in counts.items():
            before = self.counts.get(name, value)
            self.counts[name] = before + (value - before) / (place + 1)

    def agree(self, outcomes: list[StepOutput], bad: list[BadImage], taken: Passes | None = None) -> dict[str, float]:
        """Average losses, terms and monitors over passes and ranks; add the gradient norm.

        Whether any rank was asked to stop travels along, so that all of them stop behind the same step, and whether
        any has met bad images, so that all of them know of these. On a GPU the next batch is made ready meanwhile.

        Args:
            outcomes: Of the passes.
            bad: Images that were not known to be bad.
            taken: Told of a wait for the next batch; None where no more is to be read.
        """
        passes = [{"loss": outcome.loss.detach(), **outcome.terms, **outcome.monitors} for outcome in outcomes]
        asked = [float(self.stop.signal is not None), float(len(bad))]
        values = torch.stack([*self._averaged(passes), self._grad_norm().float()])
        if self.fabric.world_size > 1:
            values = self._mean(torch.cat([values, values.new_tensor(asked)]))
        reading = Reading(values)
        if self.looks_ahead and taken is not None:
            self.look_ahead(reading, taken)
        numbers = reading.numbers()
        *told, stops, met = numbers if self.fabric.world_size > 1 else [*numbers, *asked]
        if stops:
            self.stop.agree(self.fabric)
        if met:
            self.skip(bad)
        return dict(zip([*passes[0], "grad_norm"], told, strict=True))

    def _averaged(self, passes: list[dict[str, Tensor]]) -> Sequence[Tensor]:
        """Return the mean over passes of each scalar, on the device in float32."""
        device = self.fabric.device
        rows = [[one[name].to(device, torch.float32) for name in passes[0]] for one in passes]
        return rows[0] if len(rows) == 1 else torch.stack([torch.stack(row) for row in rows]).mean(dim=0).unbind()

    def look_ahead(self, reading: Reading, taken: Passes) -> None:
        """Make the next batch ready; a wait for it counts where the device has come to its end meanwhile."""
        assert self.ahead is not None
        asked = time.monotonic()
        self.ahead.begin()
        if reading.ready:
            taken.waited += time.monotonic() - asked

    def skip(self, bad: list[BadImage]) -> None:
        """Let every process know of the images that any of them could not use."""
        found = [item for rank in range(self.fabric.world_size) for item in self.fabric.broadcast(bad, src=rank)]
        self.said = [*(self.said or ()), *self.bad.add(found)]

    def _grad_norm(self) -> Tensor:
        grads = [held.grad for held in self.trained if held.grad is not None]
        if self.sharded:
            grads = [*map(sharding.local, grads)]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if not self.sharded:
            return norm
        total = self.fabric.all_reduce(norm.float().square(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.sqrt()

    def drop_gradients(self) -> None:
        """Forget the gradients of this step."""
        for held in self.trained:
            held.grad = None

    def guard(self, terms: Mapping[str, float], batches: list[dict[str, Tensor]]) -> None:
        """Refuse to step on anything that is not finite.

        Raises:
            NotFinite: Something is not.
        """
        scaled = self.plan.recipe.precision == "16-mixed"  # its loss scaler skips such gradients by itself
        losses = {name: value for name, value in terms.items() if name not in EVERY_STEP}
        bad = [
            name for name, value in losses.items() if not math.isfinite(value) and not (scaled and name == "grad_norm")
        ]
        if bad:
            raise NotFinite(bad, terms, batches)

    def measured(self, outcomes: list[StepOutput]) -> dict[str, float]:
        """Return what is not measured in every step: ranks, of the first process' images, and the conflict map."""
        if self.fabric.is_global_zero:
            for outcome in outcomes:
                self.monitors.add(outcome.rows)
        if not self.monitors.due(self.step + 1):
            return {}
        told = self.monitors.ranks() | outcomes[0].measured if self.fabric.is_global_zero else {}
        return self.fabric.broadcast(told) if self.fabric.world_size > 1 else told

    def clip(self) -> None:
        """Scale the gradients down where the recipe bounds their norm."""
        limit = self.plan.recipe.optimizer.clip_grad_norm
        if limit is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=limit, error_if_nonfinite=False)

    def momentum(self) -> float:
        """Return the target momentum of this step."""
        table = self.plan.recipe.target
        return target_momentum(self.step, self.steps, table.momentum, table.momentum_end)
