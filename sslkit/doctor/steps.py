"""Take real optimizer steps and time their sections."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sslkit.data.loader import Loader
from sslkit.data.views import augment_and_normalise, move_to_device
from sslkit.doctor.clock import Clock
from sslkit.networks import monitors
from sslkit.training.divergence import NonFiniteError
from sslkit.training.setup import Setup
from sslkit.training.step import MicroBatches, TrainStep

WAITING, REST = "waiting for data", "the rest"
WARM_UP = 3
"""Warm-up steps, which are not counted; at least one per loader process."""
_MONITORED_STEPS = 2
_NEVER = 2**62


@dataclass(frozen=True)
class Steps:
    """The time of a step, in seconds.

    Attributes:
        count: Number of timed steps.
        seconds: Mean over the steps, with overlap: on a GPU, the steps that were not split into sections.
        fastest: The fastest of these steps; on a GPU the mean, as the steps run ahead of the GPU.
        slowest: The slowest of these steps; on a GPU the mean.
        waiting: The part of `seconds` spent waiting for data.
        sections: Section -> seconds, in the order of a step; they add up to `apart`.
        apart: Mean of the steps in sections; on a GPU, each section is waited for.
        monitored: Extra seconds of a step with effective ranks and the conflict map; 0 if there are no such steps.
    """

    count: int
    seconds: float
    fastest: float
    slowest: float
    waiting: float
    sections: Mapping[str, float]
    apart: float
    monitored: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds of a step without waiting for data."""
        return self.seconds - self.waiting


class TimedSteps(TrainStep):
    """Takes optimizer steps as a run does, and measures the time of their sections."""

    def __init__(self, clock: Clock, setup: Setup) -> None:
        super().__init__(setup)
        self.clock = clock
        self.waiting = 0.0

    def fetch(self, loader: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Return the loader's next batch, ready for the networks."""
        with self.clock.section(WAITING):
            batch = next(loader)
        with self.clock.section("transfer"):
            batch = move_to_device(batch, self.setup.device)
        with self.clock.section("normalise" if self.setup.device.type == "cpu" else "colour, normalise"):
            return augment_and_normalise(batch, self.setup.plan.views)

    def all_reduce(self, micro: MicroBatches, last: bool = False) -> dict[str, float]:
        """Average over micro-batches and ranks; measure the gradient norm."""
        with self.clock.section("gradient norm, checks"):
            return super().all_reduce(micro, last)

    def check_finite(self, terms: Mapping[str, float], micro: MicroBatches) -> None:
        """Check that everything is finite; a run would record what is not.

        Raises:
            NonFiniteError: A loss, term or the gradient norm is not finite.
        """
        try:
            super().check_finite(terms, micro)
        except NonFiniteError as error:
            error.record = "`sslkit run` would write a record of it"
            raise

    @contextmanager
    def sections_timed(self) -> Iterator[None]:
        """Time all parts of a step inside the block."""
        clock, network = self.clock, self.network
        with ExitStack() as stack:
            stack.enter_context(clock.forward(network.online, "online forward"))
            if network.target is not None:
                stack.enter_context(clock.forward(network.target, "target forward"))
            for name, objective in network.objectives.items():
                stack.enter_context(clock.forward(objective, f"objective {name}"))
            for owner, function, section in (
                (monitors, "every_step", "monitors"), (self.engine, "backward", "backward"),
                (self.setup.fabric, "clip_gradients", "clipping"), (self.engine, "optimizer_step", "optimizer"),
                (self.engine, "zero_grad", "optimizer"), (network, "update_target", "EMA"),
            ):  # fmt: skip
                stack.enter_context(clock.calls(owner, function, section))
            yield

    def warm_up(self) -> int:
        """Return the number of warm-up steps."""
        return max(WARM_UP, self.setup.workers)

    def total_steps(self, steps: int) -> int:
        """Return the number of steps that `time` takes."""
        monitored = _MONITORED_STEPS if self.state.monitors.every else 0
        return self.warm_up() + (2 if self.clock.waits else 1) * steps + monitored

    def time(self, loader: Loader, steps: int, progress: Callable[[int], None]) -> Steps:
        """Take warm-up steps, then `steps` timed ones, twice on a GPU, and finally some with all monitors.

        Args:
            loader: Batches for `total_steps(steps)` steps.
            steps: Number of steps to time.
            progress: Called with the number of steps taken so far.
        """
        every, self.state.monitors.every = self.state.monitors.every, min(self.state.monitors.every, 1) * _NEVER
        self.clock.on = False
        self._steps(loader, self.warm_up(), progress)
        plain = self._steps(loader, steps, progress) if self.clock.waits else []
        waited = self.waiting
        with self.sections_timed():
            self.clock.on = True
            timed = self._steps(loader, steps, progress)
            self.clock.on = False
        if not self.clock.waits:
            plain, waited = timed, self.clock.seconds[WAITING]
        self.state.monitors.every = min(every, 1)
        extra = min(self._steps(loader, _MONITORED_STEPS, progress)) - min(plain) if every else 0.0
        return Steps(
            count=steps, seconds=_mean(plain), fastest=min(plain), slowest=max(plain), waiting=waited / steps,
            sections={name: self.clock.seconds[name] / steps for name in self.section_names()}, apart=_mean(timed),
            monitored=max(0.0, extra),
        )  # fmt: skip

    def _steps(self, loader: Loader, count: int, progress: Callable[[int], None]) -> list[float]:
        """Take steps and return the seconds of each; on a GPU with the clock off, return their mean for each."""
        seconds = []
        self.waiting = 0.0
        self.clock.wait()
        for _ in range(count):
            started = time.perf_counter()
            with self.clock.section(REST):
                terms = self(loader)
            seconds.append(time.perf_counter() - started)
            self.waiting += terms["waiting"] * self.recipe.batch_size / terms["images_per_s"]
            progress(self.state.step)
        if not self.clock.waits or self.clock.on:
            return seconds
        started = time.perf_counter()
        self.clock.wait()
        return [(math.fsum(seconds) + time.perf_counter() - started) / count] * count

    def section_names(self) -> list[str]:
        """Return the timed sections, in the order of a step."""
        names = [
            WAITING, "transfer", "normalise", "colour, normalise", "online forward", "target forward",
            *(f"objective {name}" for name in self.network.objectives),
            "monitors", "backward", "gradient norm, checks", "clipping", "optimizer", "EMA", REST,
        ]  # fmt: skip
        return [name for name in names if name in self.clock.seconds]


def _mean(seconds: list[float]) -> float:
    return math.fsum(seconds) / len(seconds)
