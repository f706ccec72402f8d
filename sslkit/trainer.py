"""Train a plan: read from top to bottom."""

from __future__ import annotations

import math
import signal
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sslkit import __version__, bad_images, checkpoint, flight, sharding, tables
from sslkit.api import Proposals, Run, Source
from sslkit.bad_images import BadImages, Found
from sslkit.data import ASKING, Epochs, Feed, ViewDataset, listing, to_device
from sslkit.errors import DataError, DivergedError, PreemptedError, SslkitError, StorageError, UsageError, closest
from sslkit.folders import cores
from sslkit.monitors import EVERY_STEP, Monitors, is_measured
from sslkit.networks import Outcome, StepModule
from sslkit.optim import make_optimizer
from sslkit.plan import Plan
from sslkit.plugins import Plugins
from sslkit.probing import Figures, Probing
from sslkit.processes import check_launcher, watched
from sslkit.progress import Display, bar
from sslkit.recipe import Text
from sslkit.runfolder import FAILED, RunFolder
from sslkit.schedules import LearningRate, cosine, target_momentum
from sslkit.seeds import seed_all, torch_seeded
from sslkit.sentinel import Facts, Sentinel
from sslkit.spent import Spent

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")
"""What `--strategy` takes: Lightning Fabric's names, and fsdp for `sslkit.sharding`."""


@dataclass(frozen=True)
class Hardware:
    """What a run is done with, and nothing that changes its numbers.

    Attributes:
        devices: Per node; "auto" takes all GPUs, or one CPU process.
        workers: Loader processes per device; None chooses by the number of cores.
        stop_after: Stop, resumable, once so many optimizer steps are done.
        save_every: Optimizer steps between checkpoints; None saves once an epoch.
        keep: Checkpoints kept.
        keep_every: Every so many checkpoints one is kept for good.
        log_every: Optimizer steps between records of the metrics.
        monitor_every: Optimizer steps between ranks and conflict maps; 0 switches them off.
        on_collapse: What to do when the features collapse.
        on_divergence: What to do when a loss or gradient is not finite: stop there, or go back to the newest checkpoint
            and leave out the batch.
        max_rollbacks: So many times.
        on_changed_images: What to do when the source's images are not those that the run began with.
    """

    accelerator: str = "auto"
    devices: str = "auto"
    nodes: int = 1
    strategy: str = "auto"
    workers: int | None = None
    stop_after: int | None = None
    save_every: int | None = None
    keep: int = 2
    keep_every: int | None = None
    log_every: int = 1
    monitor_every: int = 50
    on_collapse: Literal["warn", "stop"] = "warn"
    on_divergence: Literal["stop", "rollback"] = "stop"
    max_rollbacks: int = 3
    on_changed_images: Literal["stop", "go-on"] = "stop"


class NonFiniteError(DivergedError):
    """A loss or gradient is not finite."""


class TooManyBadImagesError(DataError):
    """More images cannot be used than the recipe says."""


@dataclass
class Passes:
    """What the passes of one step took and gave.

    Attributes:
        batches: Images and boxes of each.
        bad: Images that could not be used.
        waited: Seconds for data.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    batches: list[dict[str, Tensor]] = field(default_factory=list)
    bad: list[Found] = field(default_factory=list)
    waited: float = 0.0


@dataclass
class Result:
    """What a run came to.

    Attributes:
        state: "finished", or "stopped" and resumable.
        bad: Images that were skipped.
        probes: "raw pixels", "random weights" and "trained" -> figures.
    """

    folder: Path
    state: str
    step: int
    steps: int
    terms: dict[str, float] = field(default_factory=dict)
    probes: dict[str, Figures] = field(default_factory=dict)
    seconds: float = 0.0
    rank: int = 0
    resumed_from: int = 0
    bad: int = 0


def train(plan: Plan, text: Text, plugins: Plugins, folder: RunFolder, hardware: Hardware) -> Result:
    """Train a plan in its folder, from the newest checkpoint where there is one.

    Raises:
        RecipeError: The folder was made by a different recipe.
        DataError: Data or proposals are missing or unreadable.
        DivergedError: A loss or gradient is not finite; the optimizer step was not made.
        PreemptedError: A signal asked to stop; a checkpoint was written.
        PeerError: Another process of the run died.
    """
    folder.refuse_other(plan.resolved())
    if folder.status().get("state") == "finished":
        return finished(folder)
    with _held(folder):
        fabric = fabric_of(plan, hardware)
        with watched(fabric):
            with fabric.rank_zero_first():
                source, proposals = prepare(plan, text)
            return Trainer(plan, text, plugins, folder, hardware, fabric, source, proposals).run()


@contextmanager
def _held(folder: RunFolder) -> Iterator[None]:
    """Hold the folder in the first process, and note there why a run failed."""
    if rank_so_far():
        yield
        return
    with folder.locked():
        try:
            yield
        except PreemptedError:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, SslkitError) else f"{type(error).__name__}: {error}"
            with suppress(StorageError):  # what went wrong first is told
                told = {"state": "failed", "reason": reason, "code": getattr(error, "exit_code", 1)}
                folder.write("status.json", {**folder.status(), **told})
                folder.write_text(FAILED, traceback.format_exc())
            raise


def rank_so_far() -> int:
    """Return the number of this process by what launchers say, before the processes of a run are joined."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0)


def prepare(plan: Plan, text: Text | None = None) -> tuple[Source, Proposals | None]:
    """Make, open and return the source and its proposals.

    Args:
        plan: Names them.
        text: Of the recipe, so that a message can say the very command that makes what is missing.

    Raises:
        DataError: Something is missing that nobody may make; the message says which command does.
    """
    source: Source = plan.source.make()
    if missing := source.missing():
        raise DataError(missing)
    with bar() as progress:
        source.prepare(progress)
        source.open()
        if plan.proposer is None:
            return source, None
        proposer = plan.proposer.make()
        missing = proposer.missing(source)
        if missing and plan.recipe.proposals and plan.recipe.proposals.when_missing == "build":
            proposer.build(source, progress, cores())
            missing = None
    if missing:
        raise DataError(missing.replace("RECIPE", text.arguments) if text else missing)
    return source, proposer.open(source)


def fabric_of(plan: Plan, hardware: Hardware) -> Fabric:
    """Start the processes of a run, and return what joins them.

    Raises:
        UsageError: The batch does not divide over them, there is no such strategy, or Fabric cannot have what is asked.
    """
    from lightning_fabric import Fabric

    accelerator = "cpu" if hardware.accelerator == "auto" and not torch.cuda.is_available() else hardware.accelerator
    check_strategy(hardware.strategy, plan.recipe.precision, accelerator)
    devices: int | str = int(hardware.devices) if hardware.devices.isdecimal() else hardware.devices
    if devices == "auto" and accelerator == "cpu":
        devices = 1
    strategy = sharding.strategy() if hardware.strategy == "fsdp" else hardware.strategy
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # who does not use it knows
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=hardware.nodes,
            strategy=strategy, precision=plan.recipe.precision,
        )  # fmt: skip
    except Exception as error:  # of any kind: devices that are not there, a launcher that started another number
        asked = f"--accelerator {accelerator} --devices {devices} --nodes {hardware.nodes}"
        raise UsageError(f"{asked}: Lightning Fabric says: {' '.join(str(error).split())}") from error
    check_launcher(fabric)
    check_batch(plan.recipe.batch_size, plan.recipe.accumulate, fabric.world_size)
    fabric.launch()
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.all_gather")  # Fabric's business
    return fabric


def check_strategy(strategy: str, precision: str, accelerator: str) -> None:
    """Refuse strategies whose checkpoints would not be whole, and what one does not have."""
    if strategy not in STRATEGIES:
        raise UsageError(f"no strategy '{strategy}'{closest(strategy, STRATEGIES)} (known: {', '.join(STRATEGIES)})")
    if strategy == "fsdp" and precision not in sharding.PRECISIONS:
        raise UsageError(f'--strategy fsdp has no precision = "{precision}": write "bf16-mixed" or "32-true"')
    if strategy == "fsdp" and accelerator == "cpu" and not sharding.ON_CPU:
        raise UsageError(f"--strategy fsdp takes GPUs, or a newer torch: {torch.__version__} cannot shard on the CPU")


def check_batch(batch_size: int, accumulate: int, world: int) -> None:
    """Refuse batches that do not divide over passes and processes, or leave batch norm a single image."""
    images = batch_size / (accumulate * world)
    if images < 2 or images % 1:
        raise UsageError(
            f"batch_size = {batch_size} over {world} processes x {accumulate} passes gives {images:g} images a pass: "
            "it must be a whole number of 2 or more"
        )


class Trainer:
    """One run, from here to its end."""

    def __init__(
        self, plan: Plan, text: Text, plugins: Plugins, folder: RunFolder, hardware: Hardware,
        fabric: Fabric, source: Source, proposals: Proposals | None,
    ) -> None:  # fmt: skip
        recipe = plan.recipe
        self.plan, self.text, self.plugins, self.folder, self.hardware = plan, text, plugins, folder, hardware
        self.fabric, self.source, self.proposals = fabric, source, proposals
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
        self.module = fabric.setup_module(self.network)
        self.sharded = sharding.is_sharded(self.network)
        optimizer = make_optimizer(recipe.optimizer.use, self.network, self.lr(0), plan.optimizer)
        made = fabric.setup_optimizers(optimizer)
        assert not isinstance(made, tuple)
        self.optimizer = made
        if fabric.world_size > 1:
            self.network.gather, self.network.mean = self._gather, self._mean
        self.run_info = Run(folder.path, plan.resolved(), self.steps, self.epochs.steps)
        self.display = Display(self.steps, self.epochs.steps) if fabric.is_global_zero else None
        self.spent = Spent.so_far(folder.status())
        self.stop_signal: str | None = None
        self.stopping = False
        self.unsaved: str | None = None
        self.step = 0
        self.counts: dict[str, float] = {}
        self.counts_before = self.counts
        self.buffers = flight.Buffers(self.network)
        self.bad = BadImages(len(source), recipe.max_bad_images, recipe.max_bad_share)
        self.monitors = Monitors(hardware.monitor_every, whole=not self.sharded)
        self.sentinel = Sentinel(self._facts())

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

    # ------------------------------------------------------------------------------------------ the run

    def run(self) -> Result:
        """Resume, train, probe, and leave the folder in a state that says where it is."""
        started = time.monotonic()
        self.resume()
        result = Result(
            self.folder.path,
            "finished",
            self.step,
            self.steps,
            resumed_from=self.step,
            rank=self.fabric.global_rank,
        )
        if self.fabric.is_global_zero:
            self.folder.start(self.plan, self.text, self.fabric.world_size, str(self.fabric.device))
        if self.sharded:
            self.note(sharding.told(self.network))
        backbone = self.backbone() if self.plan.probes and self.step == 0 else None
        with self.fabric.rank_zero_first():  # the others wait as long as it takes
            probing, result.probes = self.probe_before(backbone)
        error: BaseException | None = None
        try:
            self.tell("sslkit_run_started")
            with self.signals():
                result.terms = self.loop()
            result.probes = self.probe_after(probing, result.probes)
        except (PreemptedError, DivergedError, TooManyBadImagesError) as caught:  # raised in every process
            error = caught
            if self.fabric.is_global_zero:  # the others end with 0: launchers would end the first one, which may write
                raise
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.status(self.state(error))
            self.tell("sslkit_run_finished", error=error)
        result.step, result.state, result.seconds = self.step, self.state(error), time.monotonic() - started
        result.bad = len(self.bad.reasons)
        return result

    def state(self, error: BaseException | None = None) -> str:
        """Return "failed" behind an error, "finished" at the last step, "stopped" before it or when interrupted."""
        if isinstance(error, Exception) and not isinstance(error, PreemptedError):
            return "failed"
        return "finished" if error is None and self.step >= self.steps else "stopped"

    def loop(self) -> dict[str, float]:
        """Take optimizer steps to the end, or to where we are asked to stop; go back where that is wanted."""
        stop = min(self.steps, self.hardware.stop_after or self.steps)
        if self.hardware.on_divergence == "rollback" and self.step == 0:
            self.save()
        self.network.train()
        if self.display:
            self.display.start(self.step)
        try:
            while True:
                try:
                    return self.steps_until(stop)
                except NonFiniteError as error:
                    self.roll_back(error)
        finally:
            if self.display:
                self.display.stop()

    def steps_until(self, stop: int) -> dict[str, float]:
        """Take optimizer steps; return what the last one told."""
        terms: dict[str, float] = {}
        with self.feed(stop) as feed:
            while self.step < stop:
                terms = self.optimizer_step(feed)
                self.step += 1
                self.report(terms)
                self.give_up_on_bad_images()
                self.watch(terms)
                self.save_when_due(stop)
                if self.stopping and self.step < stop:  # what is done is done: its weights are still to be written
                    raise self.preempted()
        return terms

    def feed(self, stop: int) -> Feed:
        """Return the batches of the steps from here to `stop`."""
        items = self.epochs.micro_batches(self.step, stop)
        dataset = ViewDataset(self.plan, self.source, self.proposals)
        return Feed(dataset, items, self._workers(), self.fabric.device)

    def roll_back(self, error: NonFiniteError) -> None:
        """Go back to the newest checkpoint, to leave out the batch that diverged.

        Raises:
            NonFiniteError: That is not wanted, or has been done as often as it may.
        """
        skipped = (*self.epochs.skipped, self.epochs.place(self.step))
        if self.hardware.on_divergence == "stop":
            raise error
        if len(skipped) > self.hardware.max_rollbacks:
            told = f"{error}\n    batches have been left out {len(skipped) - 1} times, which is all of --max-rollbacks"
            raise NonFiniteError(told) from error
        self.optimizer.zero_grad(set_to_none=True)
        diverged = self.step + 1
        self.resume()
        self.epochs.skipped = tuple(sorted(skipped))
        self.note(
            f"warning: step {diverged} was not finite; back to step {self.step}, without the batch of that step "
            f"(rollback {len(skipped)} of at most {self.hardware.max_rollbacks})"
        )
        self.tell("sslkit_run_started")

    def preempted(self) -> PreemptedError:
        """Say who stopped us, where, and from where it goes on."""
        where = f"after step {self.step} of {self.steps}"
        goes_on = f"\n    {self.unsaved}: it goes on from an older checkpoint" if self.unsaved else ""
        return PreemptedError(f"stopped by {self.stop_signal} {where}; the same command goes on{goes_on}")

    def optimizer_step(self, feed: Feed) -> dict[str, float]:
        """Accumulate gradients over the step's passes, check them, move the online network, then the target."""
        began = time.monotonic()
        self.schedule()
        self.buffers.keep()
        self.counts_before = dict(self.counts)
        taken = self.passes(feed)
        outcomes, waited = taken.outcomes, taken.waited
        terms = self.agree(outcomes, self.bad.new(taken.bad))
        self.guard(terms, taken.batches)
        measured = self.measured(outcomes)
        self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        momentum = self._momentum()
        self.network.update_target(momentum)
        self.network.after_step(self.step + 1, (self.step + 1) / self.epochs.steps)
        seconds = time.monotonic() - began
        self.spent.step(seconds, self.plan.recipe.batch_size)
        return terms | measured | {
            "lr": self.lr(self.step), "target_momentum": momentum,
            "images_per_s": self.plan.recipe.batch_size / seconds, "waiting": waited / seconds,
        }  # fmt: skip

    def passes(self, feed: Feed) -> Passes:
        """Go forward and backward over all that a step takes."""
        taken = Passes()
        accumulate = self.plan.recipe.accumulate
        for part in range(accumulate):
            asked = time.monotonic()
            batch = to_device(next(feed), self.plan.views, self.fabric.device)
            if self.sharded:
                sharding.align(self.network)
            taken.waited += time.monotonic() - asked
            self.count(batch.pop("counts"))
            taken.bad += batch.pop("bad")
            taken.batches.append({name: batch[name] for name in batch if name == "index" or name.startswith("boxes.")})
            # Behind the data: a loader that is new after a resume takes random numbers of its own.
            seed_all(self.plan.recipe.seed, "pass", self.step, part, self.fabric.global_rank)
            with self.fabric.no_backward_sync(self.module, enabled=part < accumulate - 1):
                outcome: Outcome = self.module(batch, measure=part == 0 and self.monitors.maps(self.step + 1))
                self.fabric.backward(outcome.loss / accumulate)
            taken.outcomes.append(outcome)
        return taken

    def schedule(self) -> None:
        """Set what the optimizer is told for this step: learning rate, and weight decay where that has a schedule."""
        end = self.plan.recipe.optimizer.final_weight_decay
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(self.step)
            if end is not None and group["scaled"]:  # biases and norms may have none
                group["weight_decay"] = cosine(self.step, self.steps, self.plan.optimizer["weight_decay"], end)

    def clip(self) -> None:
        """Scale the gradients down where the recipe bounds their norm."""
        limit = self.plan.recipe.optimizer.clip_grad_norm
        if limit is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=limit, error_if_nonfinite=False)

    def _momentum(self) -> float:
        table = self.plan.recipe.target
        return target_momentum(self.step, self.steps, table.momentum, table.momentum_end)

    def agree(self, outcomes: list[Outcome], bad: list[Found]) -> dict[str, float]:
        """Average losses, terms and monitors over passes and ranks; add the gradient norm.

        Whether any rank was asked to stop travels along, so that all of them stop behind the same step, and whether
        any has met bad images, so that all of them know of these.
        """
        passes = [{"loss": outcome.loss.detach(), **outcome.terms, **outcome.monitors} for outcome in outcomes]
        names = list(passes[0])
        values = torch.stack(
            [torch.stack([one[name].float().to(self.fabric.device) for name in names]) for one in passes]
        ).mean(dim=0)
        values = torch.cat(
            [values, self._grad_norm().view(1), values.new_tensor([self.stop_signal is not None, len(bad)])]
        )
        mean = self._mean(values) if self.fabric.world_size > 1 else values
        *told, stops, met = mean.tolist()
        if stops:
            self.stopping, self.stop_signal = True, self._any_signal(values.device)
        if met:
            self.skip(bad)
        return dict(zip([*names, "grad_norm"], told, strict=True))

    def _any_signal(self, device: torch.device) -> str:
        """Return which signal asked for a stop, in whatever process it did; to be called in all of them."""
        own = torch.tensor(signal.Signals[self.stop_signal] if self.stop_signal else 0, device=device)
        numbers = self.fabric.all_gather(own)
        assert isinstance(numbers, Tensor)
        return signal.Signals(int(numbers.max())).name

    def skip(self, bad: list[Found]) -> None:
        """Let every process know of the images that any of them could not use; write them down and say so."""
        found = [item for rank in range(self.fabric.world_size) for item in self.fabric.broadcast(bad, src=rank)]
        self.note(*self.bad.add(found))
        if self.fabric.is_global_zero:
            self.keep(bad_images.FILE, self.bad.rows(self.source.key))

    def give_up_on_bad_images(self) -> None:
        """End the run where more images are bad than it may skip.

        Raises:
            TooManyBadImagesError: They are; a checkpoint was written.
        """
        if too_many := self.bad.too_many():
            self.save()
            raise TooManyBadImagesError(too_many)

    def measured(self, outcomes: list[Outcome]) -> dict[str, float]:
        """Return what is not measured in every step: ranks, of the first process' images, and the conflict map."""
        if self.fabric.is_global_zero:
            for outcome in outcomes:
                self.monitors.add(outcome.rows)
        if not self.monitors.due(self.step + 1):
            return {}
        told = self.monitors.ranks() | outcomes[0].measured if self.fabric.is_global_zero else {}
        told = self.fabric.broadcast(told) if self.fabric.world_size > 1 else told
        if self.display and self.step:
            self.note(*self.monitors.refusals())
        return told

    def _grad_norm(self) -> Tensor:
        grads = [sharding.local(p.grad) for p in self.network.parameters() if p.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if not self.sharded:
            return norm
        total = self.fabric.all_reduce(norm.float().square(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.sqrt()

    def guard(self, terms: Mapping[str, float], passes: list[dict[str, Tensor]]) -> None:
        """Refuse to step on anything that is not finite, and leave a flight record.

        Raises:
            NonFiniteError: Names the terms, the step and the record on disk.
        """
        scaled = self.plan.recipe.precision == "16-mixed"  # its loss scaler skips such gradients by itself
        losses = {name: value for name, value in terms.items() if name not in EVERY_STEP}
        bad = [
            name for name, value in losses.items() if not math.isfinite(value) and not (scaled and name == "grad_norm")
        ]
        if not bad:
            return
        where = self.record(terms, passes)
        shown = ", ".join(f"{name} = {terms[name]}" for name in bad)
        raise NonFiniteError(
            f"step {self.step + 1} is not finite: {shown}. The optimizer step was not made. {where}. "
            f"Common causes: a learning rate too high for the batch (now {self.lr(self.step):.4g}), "
            "too short a warm-up, 16-bit precision"
        )

    def record(self, terms: Mapping[str, float], passes: list[dict[str, Tensor]]) -> str:
        """Write the flight record of this step, and say where it is."""
        own = flight.in_hand(passes)
        ranks = range(self.fabric.world_size)
        hands = [self.fabric.broadcast(own, src=rank) for rank in ranks]
        bad = [self.fabric.broadcast(flight.without_finite_gradient(self.network), src=rank) for rank in ranks]
        self.buffers.put_back()
        trained = self.trained()
        if not self.fabric.is_global_zero:
            return ""  # the first one tells
        recipe, world = self.plan.recipe, self.fabric.world_size
        for batch in (batch for hand in hands for batch in hand):
            batch["keys"] = [self.source.key(index) for index in batch["images"]]
        record = RunFolder(self.folder.path / flight.folder_name(self.step + 1))
        told = {
            "step": self.step + 1, "terms": {name: repr(value) for name, value in terms.items()},
            "without_finite_gradient": list(dict.fromkeys(name for names in bad for name in names)),
            "lr": self.lr(self.step), "target_momentum": self._momentum(), "processes": world,
            "device": str(self.fabric.device), "seeds": flight.seeds(recipe.seed, self.step, recipe.accumulate, world),
            "in_hand": hands,
        }  # fmt: skip
        try:
            checkpoint.save(record.path / flight.BEFORE, {**self.everything(trained), "counts": self.counts_before})
            record.write_text(flight.RECIPE, tables.dumps(self.plan.resolved()))
            record.write(flight.RECORD, told)
        except StorageError as error:
            return f"No record is left: {error}"
        return f"`sslkit verify replay {record.path}` does it again"

    def watch(self, terms: Mapping[str, float]) -> None:
        """Say where the features have collapsed, and end the run there when asked to.

        Raises:
            DivergedError: They have, and `on_collapse` is "stop"; a checkpoint was written.
        """
        stops = self.hardware.on_collapse == "stop"
        alarm = self.sentinel.see(self.step, terms, once=not stops)
        if alarm is None:
            return
        if self.fabric.is_global_zero:
            values = {name: repr(value) for name, value in alarm.values.items()}
            told = {"step": alarm.step, "sign": alarm.sign, "values": values, "message": alarm.message}
            self.folder.write(f"collapsed-step-{alarm.step:08d}.json", told)
        if stops:
            self.save()
            raise DivergedError(f"{alarm.message}\n    the checkpoint of this step is in {self.folder.checkpoints}")
        self.note(f"warning: {alarm.message}\n    --on-collapse stop ends a run here")

    def count(self, counts: Mapping[str, float]) -> None:
        """Average what the sampler counted over the epoch so far."""
        place = self.step % self.epochs.steps
        if place == 0:
            self.counts = {}
        for name, value in counts.items():
            before = self.counts.get(name, value)
            self.counts[name] = before + (value - before) / (place + 1)

    # ------------------------------------------------------------------------------------ what is kept

    def report(self, terms: dict[str, float]) -> None:
        """Show and log a step."""
        terms |= {f"sampler.{name}": value for name, value in self.counts.items()}
        if self.epochs.skipped:
            terms["rollbacks"] = len(self.epochs.skipped)
        if self.bad.reasons:
            terms["bad_images"] = len(self.bad.reasons)
        if self.display:
            eta = (self.steps - self.step) * self.plan.recipe.batch_size / terms["images_per_s"]
            shown = {name: value for name, value in terms.items() if not is_measured(name)}
            self.display.update(self.step, shown, terms["images_per_s"], terms["waiting"], eta)
        if self.step % self.hardware.log_every == 0 or self.step == self.steps or self.monitors.due(self.step):
            self.run_info.step = self.step
            self.tell("sslkit_step_finished", step=self.step, terms=terms)

    def save_when_due(self, stop: int) -> None:
        """Write a checkpoint at every epoch's end (or as often as asked), at the end, and before stopping."""
        every = self.hardware.save_every or self.epochs.steps
        if self.step % every == 0 or self.step == stop or self.stopping:
            self.save()

    def save(self) -> None:
        """Write everything that the next step depends on; random generators are functions of seed and step.

        Where that fails, the older checkpoints are as they were and the run goes on: the next one may succeed.

        Raises:
            StorageError: It failed behind the last step, so that there is no next one.
        """
        self.unsaved = self.fabric.broadcast(self._save())
        if self.unsaved is None:
            return
        if self.step == self.steps:
            raise StorageError(f"{self.unsaved}\n    all {self.steps} steps are done; the same command saves them")
        self.note(f"warning: no checkpoint after step {self.step}: {self.unsaved}; the run goes on")

    def _save(self) -> str | None:
        """Write a checkpoint in the first process, and return what went wrong."""
        trained = self.trained()
        if not self.fabric.is_global_zero:
            return None
        every = self.hardware.keep_every
        steps = every and every * (self.hardware.save_every or self.epochs.steps)
        try:
            path = checkpoint.add(self.folder.checkpoints, self.everything(trained), self.hardware.keep, steps)
        except StorageError as error:
            return str(error)
        self.status("running")
        self.tell("sslkit_checkpoint_saved", step=self.step, path=path)
        return None

    def trained(self) -> dict[str, Any]:
        """Return the state of networks and optimizer, whole in the first process; to be called in all of them."""
        state = {"model": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return sharding.whole(state, self.fabric.is_global_zero) if self.sharded else state

    def everything(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            **trained,
            "step": self.step,
            "processes": self.fabric.world_size,
            "listing": self.listing,
            "precision": self.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
            "counts": self.counts,
            "bad_images": self.bad.state(),
            "skipped": list(self.epochs.skipped),
            "windows": self.monitors.state(),
            "sentinel": self.sentinel.state(),
            "sslkit": __version__,
            "plugins": self.plan.resolved()["plugins"],
            "recipe": self.folder.recipe.read_text(encoding="utf-8"),
        }

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole, where there is one."""
        found = checkpoint.restore(self.folder.checkpoints)
        if found is not None:
            path, state, wrong = found
            self.take(path, state)
            self.note(*(f"warning: {damage}" for damage in wrong))
            self.note(f"resumed from {path} after step {self.step} of {self.steps}")
            self.compare(state)
        if self.fabric.broadcast(self.step) != self.step:
            raise DataError(f"processes would go on from different checkpoints in {self.folder.checkpoints}")

    def compare(self, state: Mapping[str, Any]) -> None:
        """Say what around the run is not as it was when a checkpoint was written, and changes its numbers.

        Raises:
            DataError: The images are others, and `on_changed_images` is "stop".
        """
        now, then = self.fabric.world_size, state.get("processes", self.fabric.world_size)
        if now != then:
            self.note(
                f"warning: {then} process{'es' * (then > 1)} so far, now {now}: `sslkit verify world-size` shows what "
                "that changes"
            )
        before = state.get("listing", self.listing)
        if before == self.listing:
            return
        counts = f"there were {before['images']}, there are {self.listing['images']}"
        told = f"the images are not those that the run began with ({counts}): every draw from here on would be another"
        if self.hardware.on_changed_images == "stop":
            raise DataError(f"{told}. Put them back, write --arm NAME to begin anew, or --on-changed-images go-on")
        self.note(f"warning: {told}")

    def take(self, path: Path, state: Mapping[str, Any]) -> None:
        """Put everything back as it was when a checkpoint was written.

        Raises:
            DataError: It holds other networks or optimizers than this version makes of the recipe.
        """
        try:
            self.network.load_state_dict(sharding.cut_model(state["model"], self.network))
            parameters = [held for group in self.optimizer.param_groups for held in group["params"]]
            self.optimizer.load_state_dict(sharding.cut_optimizer(state["optimizer"], parameters))
            self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
            self.step, self.counts = state["step"], state["counts"]
            self.bad.load(state.get("bad_images", {}))
            self.epochs.skipped = tuple(state.get("skipped", ()))
            self.monitors.load(state.get("windows", {}), self.fabric.device)  # older checkpoints have neither
            self.sentinel.load(state.get("sentinel", self.sentinel.state()))
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise DataError(_misfit(path, state, self.plan, error)) from error
        self.run_info.step = self.step

    def status(self, state: str) -> None:
        """Write where the run is and what it has cost, in the first process."""
        if self.fabric.is_global_zero and self.folder.path.exists():
            told = {"state": state, "step": self.step, "steps": self.steps, **self.spent.told(self.fabric.device)}
            self.keep("status.json", told)

    def keep(self, name: str, value: Any) -> None:
        """Write a file that the run can do without, or say that it cannot be written."""
        try:
            self.folder.write(name, value)
        except StorageError as error:
            self.note(f"warning: {error}")

    # ----------------------------------------------------------------------------------------- probing

    def backbone(self) -> torch.nn.Module:
        """Return the online backbone, whole in the first process; to be called in all of them."""
        own = self.network.online.backbone
        if not self.sharded:
            return own
        state = sharding.whole(own.state_dict(), self.fabric.is_global_zero)
        if not self.fabric.is_global_zero:
            return own
        with torch_seeded(self.plan.recipe.seed, "backbone"):
            made: torch.nn.Module = self.plan.backbone.make()
        made.load_state_dict(state)
        return made.to(self.fabric.device)

    def probe_before(self, backbone: torch.nn.Module | None) -> tuple[Probing | None, dict[str, Figures]]:
        """Measure raw pixels and, before the first step, the random weights of a backbone."""
        if not self.plan.probes or not self.fabric.is_global_zero:
            return None, {}
        figures: dict[str, Figures] = self.folder.read("probes.json", {})
        with bar() as progress:
            probing = Probing(self.plan.measurement, progress)
            self.note(*probing.news())
            if backbone is not None:
                figures = probing.of_pixels_and("random weights", backbone, self.fabric.device, progress)
                self.folder.write("probes.json", figures)
        self.note(*probing.news())
        return probing, figures

    def probe_after(self, probing: Probing | None, figures: dict[str, Figures]) -> dict[str, Figures]:
        """Measure the trained backbone and write its weights."""
        if self.state() != "finished":
            return figures
        backbone = self.backbone()
        if not self.fabric.is_global_zero:
            return figures
        described = {"backbone": self.plan.backbone.component.id, "step": str(self.step), "format": "pt"}
        checkpoint.save_weights(self.folder.weights, dict(backbone.state_dict()), described)
        if probing:
            with bar() as progress:
                figures = figures | {"trained": probing.of_backbone(backbone, self.fabric.device, progress)}
            self.note(*probing.news())
            self.folder.write("probes.json", figures)
        return figures

    # -------------------------------------------------------------------------------- signals, observers

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Let the first signal of `ASKING` ask for a stop at the next step; a second one acts at once.

        One that was ignored before stays ignored: `nohup` does that, so that a run outlives its terminal.
        """
        before = {number: signal.getsignal(number) for number in ASKING}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

        def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.stop_signal = signal.Signals(number).name
            for other, handler in before.items():
                signal.signal(other, handler)

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def tell(self, hook: str, **event: Any) -> None:
        """Call a reporting hook of every plugin, on rank 0; one that fails is named once and not called again."""
        if not self.fabric.is_global_zero:
            return
        event["run"] = self.run_info
        for impl in getattr(self.plugins.manager.hook, hook).get_hookimpls():
            try:
                impl.function(*(event[name] for name in impl.argnames))
            except Exception as error:  # an observer must not end the run
                owner = self.plugins.owners[impl.plugin_name]
                self.plugins.manager.unregister(impl.plugin)
                self.note(f"{owner} failed in {hook} and is switched off: {type(error).__name__}: {error}")

    def note(self, *lines: str) -> None:
        """Show lines, in the first process."""
        if self.display:
            for line in lines:
                self.display.note(line)

    def _workers(self) -> int:
        if self.hardware.workers is not None:
            return self.hardware.workers
        return max(0, min(8, cores() - 1))


def _misfit(path: Path, state: Mapping[str, Any], plan: Plan, error: Exception) -> str:
    """Say that a checkpoint does not fit, which versions differ, and what can be done."""
    now = {"sslkit": __version__, **plan.resolved()["plugins"]}
    plugins = state.get("plugins")
    then = {"sslkit": state.get("sslkit", "an unknown version"), **(plugins if isinstance(plugins, dict) else {})}
    changed = [f"{name} {then.get(name, '(none)')} -> {now.get(name, '(none)')}" for name in {**then, **now}
               if then.get(name) != now.get(name)]  # fmt: skip
    by = f"versions differ: {', '.join(changed)}" if changed else "no version differs"
    what = " ".join(str(error).split())
    shown = what if len(what) <= 400 else what[:400] + " ..."
    return (
        f"{path} does not fit what this recipe makes now ({type(error).__name__}: {shown}); {by}. "
        "Go on with the versions that wrote it, or write --arm NAME to train anew beside it"
    )


def finished(folder: RunFolder) -> Result:
    """Return what a run came to that ended some time ago."""
    status = folder.status()
    return Result(
        folder.path, "finished", status["step"], status["steps"], probes=folder.read("probes.json", {}),
        seconds=status.get("seconds", 0.0), rank=rank_so_far(),
        resumed_from=status["step"], bad=len(folder.read(bad_images.FILE, [])),
    )  # fmt: skip
