"""What to change, by the figures of an examination: every rule computes what its change would bring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

WORTH = 1.05
"""Changes that bring less are not named."""
WAITS = 0.03
"""Share of a step from which on waiting for data is more than a hitch."""
_OF_FREE = 0.8
"""Share of the free memory that a cache may take."""
_MONITORS = 0.01
"""Share of the time that ranks and conflict maps may take."""
GB = 10**9


@dataclass(frozen=True)
class Measurements:
    """What has been measured, all processes together where nothing else is said.

    Attributes:
        cores: Of all machines, that the processes may use.
        on_cpu: Whether the networks compute on these cores, too.
        threads: That the step computes with on a CPU, in each process.
        processes: Of the run; `workers` is of each.
        nodes: Machines that they are on.
        batch_size: Photos of a step.
        busy: Seconds of a step besides waiting for data.
        waiting: Seconds of a step that it waits for data.
        networks: Seconds of a step that forward and backward passes take, of `busy`.
        photo: Seconds of a photo on one core.
        decoding: Of it, what a cache of decoded photos saves.
        loader: Photos per second of the loader that nobody keeps waiting.
        decoded_gb: Gigabytes that all photos take when they are decoded.
        cache_gb: Per machine, that decoded photos may take, as asked for.
        free_gb: Memory of the machine that is free; None where the system does not tell.
        epochs: That the recipe goes over its photos.
        precisions: Precision -> seconds of an image, forward and backward on noise.
        monitored: Seconds that a step with ranks and conflict maps takes longer.
    """

    cores: int
    on_cpu: bool
    threads: int
    processes: int
    workers: int
    batch_size: int
    busy: float
    waiting: float
    networks: float
    photo: float
    decoding: float
    loader: float
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
    def all_decoded_gb(self) -> float:
        """What all decoded photos take on a machine, whose processes have a cache each."""
        return self.decoded_gb * self.processes / self.nodes

    @property
    def now(self) -> float:
        """Photos per second."""
        return self.batch_size / (self.busy + self.waiting)

    @property
    def step(self) -> float:
        """Photos per second that the step could take."""
        return self.batch_size / self.busy

    @property
    def waits(self) -> bool:
        """Whether the step waits for the loader."""
        return self.waiting > WAITS * (self.busy + self.waiting)

    @property
    def short(self) -> bool:
        """Whether the step waits for want of cores or loader processes, and not just for batches that come unevenly."""
        return self.waits and (self.on_cpu or not self.workers or self.loader < self.step)

    @property
    def worker(self) -> float:
        """Photos per second of one loader process: as measured, and not more than a core makes."""
        return min(1 / self.photo, self.loader / (self.workers * self.processes)) if self.workers else 1 / self.photo

    def reached(self, loader: float, step: float | None = None, photo: float | None = None) -> float:
        """Return how many photos per second come of a loader and a step of these rates.

        On a CPU both need its cores: `photo` seconds of one for a photo, and what the step's threads take.
        """
        step = step or self.step
        if not self.on_cpu:
            return min(loader, step)
        cores = self.cores / ((photo or self.photo) + self.threads * self.processes / step)
        return min(loader, step, max(cores, self.now))


@dataclass(frozen=True)
class Advice:
    """A change, and what it would bring.

    Attributes:
        change: What to write.
        why: The figures behind it.
        gain: Photos per second, with it over without.
    """

    change: str
    why: str
    gain: float


Rule = Callable[[Measurements], Iterator[Advice]]


def advice(figures: Measurements) -> list[Advice]:
    """Return what is worth changing, what brings most first."""
    found = [one for rule in RULES for one in rule(figures)]
    return sorted((one for one in found if one.gain >= WORTH), key=lambda one: -one.gain)


def _limit(figures: Measurements) -> str:
    share = figures.waiting / (figures.busy + figures.waiting)
    if not figures.workers:
        return f"a step spends {share:.0%} of its time on making its batch, as there are no loader processes"
    if figures.loader > figures.step:
        return f"a step waits {share:.0%} of its time, as its threads and the loader need the same cores"
    return (
        f"the loader is the limit: it makes {_rate(figures.loader)} photos/s, the step could take {_rate(figures.step)}"
    )


def more_workers(figures: Measurements) -> Iterator[Advice]:
    """Propose loader processes, as many as there are cores for."""
    room = figures.cores // figures.processes - (1 if figures.on_cpu or figures.cores > figures.processes else 0)
    wanted = math.ceil(figures.step / (figures.worker * figures.processes))
    count = min(wanted, room)
    if not figures.short or count <= figures.workers:
        return
    loader = figures.worker * count * figures.processes
    why = f"{_limit(figures)}; a loader process makes {_rate(figures.worker)}"
    yield Advice(f"--workers {count}", why, figures.reached(loader) / figures.now)


def cache(figures: Measurements) -> Iterator[Advice]:
    """Propose to keep decoded photos, where memory has room for them."""
    size = math.ceil(figures.all_decoded_gb * 10) / 10
    if figures.free_gb is not None:
        size = min(size, math.floor(_OF_FREE * figures.free_gb * 10) / 10)
    if not figures.short or figures.epochs <= 1 or size <= figures.cache_gb:
        return
    share = min(1.0, size / figures.all_decoded_gb)
    photo = figures.photo - share * figures.decoding
    reached = figures.reached(figures.loader * figures.photo / photo, photo=photo)
    if not figures.workers:
        reached = figures.batch_size / (figures.busy + figures.waiting * photo / figures.photo)
    rest = "" if share == 1 else f", of which {share:.0%} fit into the memory that is free"
    why = (
        f"{_limit(figures)}; reading and decoding are {figures.decoding / figures.photo:.0%} of a photo's time, all "
        f"decoded photos take {figures.all_decoded_gb:.3g} GB{rest}; from the second epoch on"
    )
    yield Advice(f"--cache-gb {size:g}", why, reached / figures.now)


def more_cores(figures: Measurements) -> Iterator[Advice]:
    """Say how many cores would do, where this machine's do not."""
    wanted = math.ceil(figures.step / figures.worker) + figures.processes * (figures.threads if figures.on_cpu else 1)
    if not figures.short or wanted <= figures.cores:
        return
    yield Advice(
        f"a machine with {wanted} cores",
        f"{_limit(figures)}; a loader process makes {_rate(figures.worker)}, and there are {figures.cores} cores",
        figures.step / figures.now,
    )


def precision(figures: Measurements) -> Iterator[Advice]:
    """Propose the precision in which the networks are faster here."""
    own = figures.precisions.get(figures.precision, 0.0)
    other = min(figures.precisions, key=figures.precisions.__getitem__, default=figures.precision)
    if other == figures.precision:
        return
    ratio = figures.precisions[other] / own
    busy = figures.busy - figures.networks * (1 - ratio)
    loading = figures.batch_size / figures.loader if figures.workers else 0.0
    uneven = figures.waiting - max(0.0, loading - figures.busy)  # what the loader's rate does not explain stays
    reached = figures.batch_size / (max(busy, loading) + uneven)
    share = figures.networks / figures.busy
    why = f"forward and backward passes, {share:.0%} of a step, take {ratio:.0%} of the time here"
    yield Advice(f'--set precision="{other}" (changes the numbers)', why, reached / figures.now)


def fewer_monitors(figures: Measurements) -> Iterator[Advice]:
    """Propose to take ranks and conflict maps less often, where they take much of the time."""
    if not figures.monitor_every or not figures.monitored:
        return
    step = figures.busy + figures.waiting
    every = math.ceil(figures.monitored / (_MONITORS * step))
    longer = figures.monitored / figures.monitor_every
    why = (
        f"ranks and conflict maps take {longer / (step + longer):.1%} of the time: {figures.monitored:.3g} s every "
        f"{figures.monitor_every} steps"
    )
    yield Advice(f"--monitor-every {every}", why, (step + longer) / (step + figures.monitored / every))


RULES: tuple[Rule, ...] = (more_workers, cache, more_cores, precision, fewer_monitors)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
