"""Examine a recipe: take some real steps, measure them, and draw conclusions. Nothing is written."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from sslkit.ablation.estimate import step_seconds
from sslkit.api import Source
from sslkit.contracts.proposals import CheckedProposals
from sslkit.data.opening import prepare
from sslkit.data.views import ViewDataset
from sslkit.doctor import loading, memory, outlook, peaks
from sslkit.doctor.advice import GB, Advice, Measurements, advice
from sslkit.doctor.clock import Clock
from sslkit.doctor.steps import WAITING, Steps, TimedSteps
from sslkit.folders import cores
from sslkit.networks import StepModule
from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.plugins import Plugins
from sslkit.progress import bar
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.precision import recalled, settle_alone
from sslkit.training.processes import watching
from sslkit.training.setup import set_up

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_CPU_IMAGES = 8
"""Images of a step on noise on a CPU, which is as fast with few images as with many."""


@dataclass(frozen=True)
class Examination:
    """The results of an examination.

    Attributes:
        device: Name of the GPU, or of the processor with its number of threads.
        first_epoch: Measurements of the steps, with the waiting of a long run: see `_waiting`.
        measured: The same for all epochs, or from the second one on if decoded images are cached.
        loader_rate: Images per second of the loader alone.
        pipeline: Upper bound in bytes for the batches of a rank and its loader processes; see `memory.bound`.
        skipped: Number of images that could not be used.
        peak: Peak performance of the device.
        used: Share of the peak that the networks' operations reach.
        used_busy: The same, while the step does not wait for data.
        arms: The full recipe first.
        no_arms: Why there are no other arms; None if there are, or if the recipe has a single objective.
        rank: The rank of this process; rank 0 alone fills in the fields from `peak` to `seeds`.
    """

    name: str
    device: str
    steps: Steps
    image: loading.ImageTiming
    loader_rate: float
    memory: memory.Memory
    pipeline: int
    first_epoch: Measurements
    measured: Measurements
    skipped: int
    images: int
    peak: peaks.Peak | None = None
    used: float = 0.0
    used_busy: float = 0.0
    arms: tuple[outlook.ArmOutlook, ...] = ()
    no_arms: str | None = None
    advice: tuple[Advice, ...] = ()
    seeds: int = 1
    rank: int = 0


def examine(plan: Plan, text: RecipeFile, plugins: Plugins, options: RunOptions, steps: int, seeds: int) -> Examination:
    """Take the first steps of a run and measure them; write nothing.

    Args:
        plan: Plan of the run.
        text: The recipe.
        plugins: Plugins to make the arms from.
        options: Options of the run.
        steps: Number of steps to time.
        seeds: Number of seeds of an ablation.

    Raises:
        DataError: Data or proposals are missing or unreadable.
        DivergedError: A loss or gradient is not finite.
        UsageError: The hardware is not available.
    """
    plan = settle_alone(plan, options)
    fabric = launch(plan, options)
    with watching(fabric):
        with fabric.rank_zero_first():
            source, proposals = prepare(plan, text)
        train_step = TimedSteps(Clock(fabric.device), set_up(plan, options, fabric, source, proposals))
        examination = _measure(train_step, source, proposals, steps)
    if not fabric.is_global_zero:
        return examination
    return _conclude(replace(examination, name=text.name, seeds=seeds), train_step, text, plugins)


def _measure(train_step: TimedSteps, source: Source, proposals: CheckedProposals | None, steps: int) -> Examination:
    """Time the steps, then the loader alone. Every rank must call this."""
    plan, fabric, workers = train_step.setup.plan, train_step.setup.fabric, train_step.setup.workers
    epochs, device = train_step.setup.epochs, fabric.device
    train_step.network.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    total = train_step.total_steps(steps)
    with bar() as progress, train_step.setup.loader(0, total) as loader:
        timed = train_step.time(loader, steps, lambda done: progress("steps", done, total))
        peak_memory = memory.measure(device, [worker.pid for worker in loader.processes()])
    on_cpu = device.type == "cpu"
    items = loading.batches(epochs, total)
    image = loading.time_image(plan, source, proposals, on_cpu, items)
    rank_rate = loading.loader_rate(ViewDataset(plan, source, proposals, on_cpu), items, workers, device)
    loader_rate = rank_rate * fabric.world_size
    pipeline = memory.bound(workers, image.in_batch * epochs.micro_batch_size, pinned=device.type == "cuda")
    first_epoch = _measurements(train_step, timed, image, loader_rate, peak_memory.free)
    return Examination(
        name="", device=_device_name(device), steps=timed, image=image, loader_rate=loader_rate,
        memory=peak_memory, pipeline=pipeline, first_epoch=first_epoch,
        measured=_with_cache(first_epoch) if first_epoch.cache_gb else first_epoch,
        skipped=len(train_step.state.bad.reasons), images=len(source), rank=fabric.global_rank,
    )  # fmt: skip


def _measurements(
    train_step: TimedSteps, timed: Steps, image: loading.ImageTiming, loader_rate: float, free: int | None
) -> Measurements:
    setup = train_step.setup
    recipe, fabric, epochs, options = setup.plan.recipe, setup.fabric, setup.epochs, setup.options
    forward = [name for name in timed.sections if name.startswith(("online", "target", "objective", "backward"))]
    waiting = _waiting(timed, recipe.batch_size / loader_rate if setup.workers else 0.0)
    return Measurements(
        cores=cores() * options.nodes, nodes=options.nodes, on_cpu=fabric.device.type == "cpu",
        threads=torch.get_num_threads(), world_size=fabric.world_size,
        workers=setup.workers, batch_size=recipe.batch_size, busy=timed.busy, waiting=waiting,
        networks=timed.busy * sum(timed.sections[name] for name in forward) / (timed.apart - timed.sections[WAITING]),
        per_image=image.seconds, decoding=image.decoding, loader_rate=loader_rate,
        decoded_gb=image.decoded * epochs.images / GB, cache_gb=options.cache_gb,
        free_gb=None if free is None else free / GB, epochs=setup.steps / epochs.steps,
        precision=_precision(fabric), precisions={},
        monitor_every=options.monitor_every, monitored=timed.monitored,
    )  # fmt: skip


def _waiting(timed: Steps, loading: float) -> float:
    """Return how long a step waits in a long run, where the loader alone needs `loading` seconds per batch.

    A few steps may wait less, as they use batches that were loaded during the slow first steps.
    """
    return max(timed.waiting, loading - timed.busy)


def _with_cache(measured: Measurements) -> Measurements:
    """Return the measurements after the first epoch, when images in the cache are not decoded again."""
    share = min(1.0, measured.cache_gb / measured.full_cache_gb)
    per_image = measured.per_image - share * measured.decoding
    loader_rate = measured.loader_rate * measured.per_image / per_image
    waiting = measured.waiting * per_image / measured.per_image
    if measured.workers:
        waiting = min(measured.waiting, max(0.0, measured.batch_size / loader_rate - measured.busy))
    decoding = (1 - share) * measured.decoding
    return replace(measured, per_image=per_image, loader_rate=loader_rate, waiting=waiting, decoding=decoding)


def _conclude(examination: Examination, train_step: TimedSteps, text: RecipeFile, plugins: Plugins) -> Examination:
    """Add the measurements that rank 0 takes alone, and everything that follows from the measurements."""
    plan, device, epochs = train_step.setup.plan, train_step.setup.fabric.device, train_step.setup.epochs
    precisions = _precisions(plan, device, epochs.micro_batch_size, examination.measured.precision)
    measured = replace(examination.measured, precisions=precisions)
    source, proposals = train_step.setup.source, train_step.setup.proposals

    def per_image(arm: Plan) -> float:
        items = loading.batches(epochs, train_step.state.step)
        timing = loading.time_image(arm, source, proposals if arm.proposer else None, measured.on_cpu, items)
        return timing.seconds - timing.decoding + measured.decoding

    arms, no_arms = outlook.outlook(text, plan, plugins, measured, per_image)
    peak = peaks.peak(device, measured.precision)
    rates = (plan.recipe.batch_size / examination.steps.seconds, measured.step_rate)
    used, used_busy = (arms[0].cost.flops * rate / (peak.flops * measured.world_size) for rate in rates)
    return replace(
        examination, measured=measured, peak=peak, used=used, used_busy=used_busy, arms=tuple(arms), no_arms=no_arms,
        advice=tuple(advice(measured)),
    )  # fmt: skip


def _precisions(plan: Plan, device: torch.device, micro_batch: int, own: str) -> Mapping[str, float]:
    """Return the seconds per image of forward and backward passes on noise, at the run's own precision and others.

    Where the run's own was chosen by timed steps on this machine, those are the times.
    """
    if plan.recipe.auto_memory_format and (outcome := recalled(plan)):
        return outcome.per_image
    images = min(micro_batch, _CPU_IMAGES) if device.type == "cpu" else micro_batch
    step = StepModule(plan).to(device)
    seconds = {}
    for precision in dict.fromkeys((own, "bf16-mixed", "32-true")):
        try:
            seconds[precision] = step_seconds(step, plan, images, device, precision) / images
        except torch.OutOfMemoryError:
            return {}
    return seconds


def _precision(fabric: Fabric) -> str:
    """Return the precision of a run."""
    return str(fabric.strategy.precision.precision)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
