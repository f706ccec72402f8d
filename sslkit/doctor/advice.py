"""Propose changes from measurements: every rule computes the gain of its change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sslkit.training.trial import MARGIN

WORTH = 1.05
"""Changes with a smaller gain are not proposed."""
WAITS = 0.03
"""A step that waits for data for a larger share of its time counts as waiting."""
_CACHE_SHARE = 0.8
"""Share of the free memory that a cache may take."""
_MONITOR_SHARE = 0.01
"""Share of the time that effective ranks and conflict maps may take."""
GB = 10**9


@dataclass(frozen=True)
class Measurements:
    """Measurements of a run's steps and loader, over all ranks unless stated otherwise.

    Attributes:
        cores: Cores that the ranks may use, on all machines.
        on_cpu: Whether the networks compute on these cores, too.
        threads: Threads per rank that a step computes with on a CPU.
        world_size: Number of ranks.
        workers: Loader processes per rank.
        batch_size: Images per step.
        busy: Seconds of a step without waiting for data.
        waiting: Seconds of a step that it waits for data.
        networks: Seconds of `busy` in forward and backward passes.
        per_image: Seconds of one core to load an image.
        decoding: Seconds of `per_image` that a cache of decoded images saves.
        loader_rate: Images per second of the loader alone, which then never waits for a step.
        decoded_gb: Size of all decoded images, in gigabytes.
        cache_gb: Gigabytes per machine requested for decoded images.
        free_gb: Free memory of the machine; None if the system does not report it.
        epochs: Epochs of the recipe.
        precisions: Precision -> seconds per image, forward and backward on noise.
        monitored: Extra seconds of a step with effective ranks and conflict maps.
        nodes: Machines.
    """

    cores: int
    on_cpu: bool
    threads: int
    world_size: int
    workers: int
    batch_size: int
    busy: float
    waiting: float
    networks: float
    per_image: float
    decoding: float
    loader_rate: float
    decoded_gb: float
    cache_gb: float
    free_gb: float | None
    epochs: float
    precision: str
    precisions: Mapping[str, float]
    monitor_every: int
    monitored: float
    nodes: int = 1

    @property
    def full_cache_gb(self) -> float:
        """Gigabytes of all decoded images on one machine, where each rank has its own cache."""
        return self.decoded_gb * self.world_size / self.nodes

    @property
    def rate(self) -> float:
        """Images per second of the run."""
        return self.batch_size / (self.busy + self.waiting)

    @property
    def step_rate(self) -> float:
        """Images per second of steps that never wait for data."""
        return self.batch_size / self.busy

    @property
    def waits(self) -> bool:
        """Whether the step waits for the loader."""
        return self.waiting > WAITS * (self.busy + self.waiting)

    @property
    def starved(self) -> bool:
        """Whether the step waits for lack of cores or loader processes, and not just because batches come unevenly."""
        return self.waits and (self.on_cpu or not self.workers or self.loader_rate < self.step_rate)

    @property
    def worker_rate(self) -> float:
        """Images per second of one loader process: as measured, but no more than one core can load."""
        core = 1 / self.per_image
        return min(core, self.loader_rate / (self.workers * self.world_size)) if self.workers else core

    def shares_cores(self, workers: int) -> bool:
        """Return whether steps and this many loader processes per rank compete for cores."""
        return self.on_cpu and self.cores < (self.threads + workers) * self.world_size

    def combined_rate(self, loader_rate: float, workers: int) -> float:
        """Return the images per second of a step beside a loader of this rate with this many processes per rank.

        On a CPU whose cores are too few for both, a step takes the loader's time in addition to its own: its threads
        wait for each other at every operation, also for the one that shares its core with a loader process.
        """
        if self.shares_cores(workers):
            return max(self.rate, 1 / (1 / loader_rate + 1 / self.step_rate))
        return min(loader_rate, self.step_rate)


@dataclass(frozen=True)
class Advice:
    """A change and its gain.

    Attributes:
        change: What to write.
        why: The measurements behind the change.
        gain: Images per second with the change, divided by those without.
    """

    change: str
    why: str
    gain: float


Rule = Callable[[Measurements], Iterator[Advice]]


def advice(measured: Measurements) -> list[Advice]:
    """Return the changes that are worth making, the largest gain first."""
    proposals = [proposal for rule in RULES for proposal in rule(measured)]
    return sorted((proposal for proposal in proposals if proposal.gain >= WORTH), key=lambda proposal: -proposal.gain)


def _bottleneck(measured: Measurements) -> str:
    share = measured.waiting / (measured.busy + measured.waiting)
    if not measured.workers:
        return f"a step spends {share:.0%} of its time loading its batch, as there are no loader processes"
    if measured.loader_rate > measured.step_rate:
        reason = "its threads and the loader need the same cores"
        if not measured.shares_cores(measured.workers):
            reason = f"batches come unevenly: on average, the loader makes {_rate(measured.loader_rate)} images/s"
        return f"a step waits {share:.0%} of its time, as {reason}"
    return (
        f"the loader is the bottleneck: it loads {_rate(measured.loader_rate)} images/s, and the step could take "
        f"{_rate(measured.step_rate)}"
    )


def more_workers(measured: Measurements) -> Iterator[Advice]:
    """Propose more loader processes, up to the number of cores."""
    reserved = 1 if measured.on_cpu or measured.cores > measured.world_size else 0
    limit = measured.cores // measured.world_size - reserved
    one = measured.worker_rate * measured.world_size
    counts = range(measured.workers + 1, min(math.ceil(measured.step_rate / one), limit) + 1)
    if not measured.starved or not counts:
        return
    rates = {count: measured.combined_rate(one * count, count) for count in counts}
    count = max(rates, key=rates.__getitem__)
    why = f"{_bottleneck(measured)}; one loader process loads {_rate(measured.worker_rate)}"
    yield Advice(f"--workers {count}", why, rates[count] / measured.rate)


def cache(measured: Measurements) -> Iterator[Advice]:
    """Propose to cache decoded images, as far as they fit into memory."""
    size = math.ceil(measured.full_cache_gb * 10) / 10
    if measured.free_gb is not None:
        size = min(size, math.floor(_CACHE_SHARE * measured.free_gb * 10) / 10)
    if not measured.starved or measured.epochs <= 1 or size <= measured.cache_gb:
        return
    share = min(1.0, size / measured.full_cache_gb)
    per_image = measured.per_image - share * measured.decoding
    rate = measured.combined_rate(measured.loader_rate * measured.per_image / per_image, measured.workers)
    if not measured.workers:
        rate = measured.batch_size / (measured.busy + measured.waiting * per_image / measured.per_image)
    rest = "" if share == 1 else f", of which {share:.0%} fit into the free memory"
    why = (
        f"{_bottleneck(measured)}; reading and decoding take {measured.decoding / measured.per_image:.0%} of the time "
        f"of an image, and all decoded images {measured.full_cache_gb:.3g} GB{rest}; from the second epoch on"
    )
    yield Advice(f"--cache-gb {size:g}", why, rate / measured.rate)


def more_cores(measured: Measurements) -> Iterator[Advice]:
    """Say how many cores would be enough, if this machine has too few."""
    for_steps = measured.world_size * (measured.threads if measured.on_cpu else 1)
    needed = math.ceil(measured.step_rate / measured.worker_rate) + for_steps
    if not measured.starved or needed <= measured.cores:
        return
    yield Advice(
        f"a machine with {needed} cores",
        f"{_bottleneck(measured)}; one loader process loads {_rate(measured.worker_rate)}, and there are "
        f"{measured.cores} cores",
        measured.step_rate / measured.rate,
    )


def precision(measured: Measurements) -> Iterator[Advice]:
    """Propose the precision in which the networks are fastest on this machine."""
    fastest = min(measured.precisions, key=measured.precisions.__getitem__, default=measured.precision)
    if fastest == measured.precision:
        return
    ratio = measured.precisions[fastest] / measured.precisions.get(measured.precision, 0.0)
    if ratio * (1 + MARGIN) > 1:
        return
    busy = measured.busy - measured.networks * (1 - ratio)
    loading = measured.batch_size / measured.loader_rate if measured.workers else 0.0
    uneven = measured.waiting - max(0.0, loading - measured.busy)  # waiting that the loader's rate does not explain
    rate = measured.batch_size / (max(busy, loading) + uneven)
    share = measured.networks / measured.busy
    why = f"forward and backward passes, {share:.0%} of a step, take {ratio:.0%} of the time on this machine"
    yield Advice(f'--set precision="{fastest}" (changes the numbers)', why, rate / measured.rate)


def fewer_monitors(measured: Measurements) -> Iterator[Advice]:
    """Propose to measure effective ranks and conflict maps less often, if they take much of the time."""
    if not measured.monitor_every or not measured.monitored:
        return
    step = measured.busy + measured.waiting
    every = math.ceil(measured.monitored / (_MONITOR_SHARE * step))
    extra = measured.monitored / measured.monitor_every
    why = (
        f"effective ranks and conflict maps take {extra / (step + extra):.1%} of the time: {measured.monitored:.3g} s "
        f"every {measured.monitor_every} steps"
    )
    yield Advice(f"--monitor-every {every}", why, (step + extra) / (step + measured.monitored / every))


RULES: tuple[Rule, ...] = (more_workers, cache, more_cores, precision, fewer_monitors)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
