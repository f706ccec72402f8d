"""Take some real steps of a recipe, and measure what there is to know about them. Nothing is written."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from sslkit.ablation.estimate import step_seconds
from sslkit.api import Proposals, Source
from sslkit.data.opening import prepare
from sslkit.data.views import ViewDataset
from sslkit.doctor import loading, memory, outlook, peaks
from sslkit.doctor.advice import GB, Advice, Measurements, advice
from sslkit.doctor.clock import Clock
from sslkit.doctor.steps import WAITING, Steps, Timed
from sslkit.folders import cores
from sslkit.networks import StepModule
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import RecipeFile
from sslkit.plugins import Plugins
from sslkit.progress import bar
from sslkit.training.hardware import fabric_of
from sslkit.training.options import RunOptions
from sslkit.training.processes import watched

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_ON_CPU = 8
"""Images of a step on noise: a CPU is as fast with few."""


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        device: Name of the GPU, or of the processor with its threads.
        first: Of the steps as they were, in the long run: see `_waiting`.
        figures: The same, and from the second epoch on where decoded photos are kept.
        loader: Photos per second of the loader alone.
        pipeline: Bound, in bytes, of the batches that a process and its loader processes hold; see `memory.bound`.
        skipped: Images that could not be used.
        peak: What the device could do; `used` is the share of it that the networks' operations come to.
        arms: The full recipe first.
        no_arms: Why there are no others, where there should be.
        rank: Of this process; what follows is the first one's.
    """

    name: str
    device: str
    steps: Steps
    photo: loading.Photo
    loader: float
    memory: memory.Memory
    pipeline: int
    first: Measurements
    figures: Measurements
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
    """Take steps from the beginning of a run, and write nothing.

    Args:
        plan: What would be trained.
        text: Of the recipe.
        plugins: That arms are made of.
        options: As the run would have it.
        steps: That are timed.
        seeds: Of an ablation.

    Raises:
        DataError: Data or proposals are missing or unreadable.
        DivergedError: A loss or gradient is not finite.
        UsageError: The hardware cannot be had.
    """
    fabric = fabric_of(plan, options)
    with watched(fabric):
        with fabric.rank_zero_first():
            source, proposals = prepare(plan, text)
        stepper = Timed(Clock(fabric.device), plan, options, fabric, source, proposals)
        found = _measured(stepper, source, proposals, steps)
    if not fabric.is_global_zero:
        return found
    return _concluded(replace(found, name=text.name, seeds=seeds), stepper, text, plugins)


def _measured(stepper: Timed, source: Source, proposals: Proposals | None, steps: int) -> Examination:
    """Take the steps; then let the loader run alone. To be called in all processes."""
    plan, fabric, workers = stepper.plan, stepper.fabric, stepper._workers()
    stepper.network.train()
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(fabric.device)
    most = stepper.most(steps)
    with bar() as progress, stepper.feed(most) as feed:
        timed = stepper.time(feed, steps, lambda done: progress("steps", done, most))
        pids = [worker.pid for worker in feed._workers()]
        held = memory.measure(fabric.device, pids)
    on_cpu = fabric.device.type == "cpu"
    items = loading.batches(stepper.epochs, most)
    photo = loading.photo(plan, source, proposals, on_cpu, items)
    alone = loading.rate(ViewDataset(plan, source, proposals, on_cpu), items, workers, fabric.device)
    loader = alone * fabric.world_size
    pipeline = memory.bound(workers, photo.made * stepper.epochs.micro, pinned=fabric.device.type == "cuda")
    first = _figures(stepper, timed, photo, loader, held.free)
    return Examination(
        name="", device=_device(fabric.device), steps=timed, photo=photo, loader=loader,
        memory=held, pipeline=pipeline, first=first, figures=_with_cache(first) if first.cache_gb else first,
        skipped=len(stepper.bad.reasons), images=len(source), rank=fabric.global_rank,
    )  # fmt: skip


def _figures(stepper: Timed, timed: Steps, photo: loading.Photo, loader: float, free: int | None) -> Measurements:
    recipe, fabric, epochs = stepper.plan.recipe, stepper.fabric, stepper.epochs
    forward = [name for name in timed.sections if name.startswith(("online", "target", "objective", "backward"))]
    waiting = _waiting(timed, recipe.batch_size / loader if stepper._workers() else 0.0)
    return Measurements(
        cores=cores() * stepper.options.nodes, nodes=stepper.options.nodes,
        on_cpu=fabric.device.type == "cpu", threads=torch.get_num_threads(), processes=fabric.world_size,
        workers=stepper._workers(), batch_size=recipe.batch_size, busy=timed.busy, waiting=waiting,
        networks=timed.busy * sum(timed.sections[name] for name in forward) / (timed.apart - timed.sections[WAITING]),
        photo=photo.seconds, decoding=photo.decoding, loader=loader,
        decoded_gb=photo.decoded * epochs.images / GB, cache_gb=stepper.options.cache_gb,
        free_gb=None if free is None else free / GB, epochs=stepper.steps / epochs.steps,
        precision=_precision(fabric), precisions={},
        monitor_every=stepper.options.monitor_every, monitored=timed.monitored,
    )  # fmt: skip


def _waiting(timed: Steps, loading: float) -> float:
    """Return how long a step waits in the long run, by the seconds in which the loader alone makes its photos.

    Few steps may find what was made ahead while the first ones took longer.
    """
    return max(timed.waiting, loading - timed.busy)


def _with_cache(figures: Measurements) -> Measurements:
    """Return the figures of the epochs behind the first, in which what fits into the cache is not decoded."""
    share = min(1.0, figures.cache_gb / figures.all_decoded_gb)
    photo = figures.photo - share * figures.decoding
    loader = figures.loader * figures.photo / photo
    waiting = figures.waiting * photo / figures.photo
    if figures.workers:
        waiting = min(figures.waiting, max(0.0, figures.batch_size / loader - figures.busy))
    decoding = (1 - share) * figures.decoding
    return replace(figures, photo=photo, loader=loader, waiting=waiting, decoding=decoding)


def _concluded(found: Examination, stepper: Timed, text: RecipeFile, plugins: Plugins) -> Examination:
    """Add what follows from the measurements, and what the first process measures by itself."""
    plan, device = stepper.plan, stepper.fabric.device
    figures = replace(
        found.figures, precisions=_precisions(plan, device, stepper.epochs.micro, found.figures.precision)
    )
    source, proposals, epochs = stepper.source, stepper.proposals, stepper.epochs

    def photo(one: Plan) -> float:
        own = source, (proposals if one.proposer else None)
        items = loading.batches(epochs, stepper.step)
        made = loading.photo(one, *own, figures.on_cpu, items)
        return made.seconds - made.decoding + figures.decoding

    arms, why = outlook.outlook(text, plan, plugins, figures, photo)
    peak = peaks.peak(device, figures.precision)
    rates = (plan.recipe.batch_size / found.steps.seconds, figures.step)
    used, busy = (arms[0].cost.flops * rate / (peak.flops * figures.processes) for rate in rates)
    return replace(
        found, figures=figures, peak=peak, used=used, used_busy=busy, arms=tuple(arms), no_arms=why,
        advice=tuple(advice(figures)),
    )  # fmt: skip


def _precisions(plan: Plan, device: torch.device, most: int, own: str) -> Mapping[str, float]:
    """Return how long forward and backward passes of an image take on noise, at the run's own precision and others."""
    images = min(most, _ON_CPU) if device.type == "cpu" else most
    kinds = dict.fromkeys((own, "bf16-mixed", "32-true"))
    step = StepModule(plan).to(device)
    found = {}
    for kind in kinds:
        try:
            found[kind] = step_seconds(step, plan, images, device, kind) / images
        except torch.OutOfMemoryError:
            return {}
    return found


def _precision(fabric: Fabric) -> str:
    """Return what a run is computed in."""
    return str(fabric.strategy.precision.precision)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
