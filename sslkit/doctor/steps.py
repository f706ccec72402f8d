"""Real optimizer steps, section by section."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sslkit.data.bad_images import BadImage
from sslkit.data.loader import Loader
from sslkit.data.views import moved, ready
from sslkit.doctor.clock import Clock
from sslkit.errors import DivergedError
from sslkit.networks import monitors
from sslkit.networks.step_module import StepOutput
from sslkit.training.step import NotFinite, Passes, Stepper

WAITING, REST = "waiting for data", "the rest"
WARM_UP = 3
"""Steps that are not counted, or as many as there are loader processes."""
_MONITORED = 2
_NEVER = 2**62


@dataclass(frozen=True)
class Steps:
    """What a step takes, in seconds.

    Attributes:
        count: Steps that were timed.
        seconds: Mean of all, with overlap: on a GPU, steps that were not cut into sections.
        fastest: Of the same steps; on a GPU they run ahead of it, and it is the mean.
        slowest: The same.
        waiting: For data, of `seconds`.
        sections: Section -> seconds, in the order of a step; they add up to `apart`.
        apart: Mean of the steps in sections, which on a GPU are waited for one by one.
        monitored: That a step takes longer in which ranks and the conflict map are taken; 0 where none is.
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
        """What a step takes besides waiting for data."""
        return self.seconds - self.waiting


class Timed(Stepper):
    """Takes steps as a run does, and counts where their time goes."""

    def __init__(self, clock: Clock, *given: Any) -> None:
        super().__init__(*given)
        self.clock = clock
        self.waited = 0.0

    def fetch(self, feed: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Return the next batch, ready for the networks."""
        with self.clock.section(WAITING):
            batch = next(feed)
        with self.clock.section("transfer"):
            batch = moved(batch, self.fabric.device)
        with self.clock.section("normalise" if self.fabric.device.type == "cpu" else "colour, normalise"):
            return ready(batch, self.plan.views)

    def agree(self, outcomes: list[StepOutput], bad: list[BadImage], taken: Passes | None = None) -> dict[str, float]:
        """Average over passes and processes; take the gradient norm."""
        with self.clock.section("gradient norm, checks"):
            return super().agree(outcomes, bad, taken)

    def guard(self, terms: Mapping[str, float], batches: list[dict[str, Tensor]]) -> None:
        """Say what is not finite, in words.

        Raises:
            DivergedError: Something is not.
        """
        try:
            super().guard(terms, batches)
        except NotFinite as error:
            shown = ", ".join(f"{name} = {terms[name]}" for name in error.names)
            raise DivergedError(
                f"step {self.step + 1} is not finite: {shown}. The optimizer step was not made; `sslkit run` would "
                "leave a record of it. Common causes: a learning rate too high for the batch (now "
                f"{self.lr(self.step):.4g}), too short a warm-up, 16-bit precision"
            ) from None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Put clocks on everything that a step consists of."""
        clock, network = self.clock, self.network
        with ExitStack() as stack:
            stack.enter_context(clock.forward(network.online, "online forward"))
            if network.target is not None:
                stack.enter_context(clock.forward(network.target, "target forward"))
            for name, objective in network.objectives.items():
                stack.enter_context(clock.forward(objective, f"objective {name}"))
            for owner, function, section in (
                (monitors, "every_step", "monitors"), (self, "backward", "backward"),
                (self.fabric, "clip_gradients", "clipping"), (self, "update", "optimizer"),
                (self, "drop_gradients", "optimizer"), (network, "update_target", "EMA"),
            ):  # fmt: skip
                stack.enter_context(clock.calls(owner, function, section))
            yield

    def warm_up(self) -> int:
        """Return how many steps are not counted."""
        return max(WARM_UP, self._workers())

    def most(self, steps: int) -> int:
        """Return how many steps `time` takes."""
        return self.warm_up() + (2 if self.clock.waits else 1) * steps + (_MONITORED if self.monitors.every else 0)

    def time(self, feed: Loader, steps: int, told: Callable[[int], None]) -> Steps:
        """Take unmeasured steps, then `steps` that are measured, twice on a GPU, and some with all monitors.

        Args:
            feed: Batches of `most(steps)` steps.
            steps: That are timed.
            told: Called with the number of steps done.
        """
        every, self.monitors.every = self.monitors.every, min(self.monitors.every, 1) * _NEVER
        self.clock.on = False
        self._steps(feed, self.warm_up(), told)
        plain = self._steps(feed, steps, told) if self.clock.waits else []
        waited = self.waited
        with self.watched():
            self.clock.on = True
            timed = self._steps(feed, steps, told)
            self.clock.on = False
        if not self.clock.waits:
            plain, waited = timed, self.clock.seconds[WAITING]
        self.monitors.every = min(every, 1)
        longer = min(self._steps(feed, _MONITORED, told)) - min(plain) if every else 0.0
        return Steps(
            count=steps, seconds=_mean(plain), fastest=min(plain), slowest=max(plain), waiting=waited / steps,
            sections={name: self.clock.seconds[name] / steps for name in self.order()}, apart=_mean(timed),
            monitored=max(0.0, longer),
        )  # fmt: skip

    def _steps(self, feed: Loader, count: int, told: Callable[[int], None]) -> list[float]:
        """Take steps; return the seconds of each, or where the clock is off their mean for each."""
        seconds = []
        self.waited = 0.0
        self.clock.wait()
        for _ in range(count):
            began = time.perf_counter()
            with self.clock.section(REST):
                terms = self.optimizer_step(feed)
            seconds.append(time.perf_counter() - began)
            self.waited += terms["waiting"] * self.plan.recipe.batch_size / terms["images_per_s"]
            told(self.step)
        if not self.clock.waits or self.clock.on:
            return seconds
        began = time.perf_counter()
        self.clock.wait()
        return [(math.fsum(seconds) + time.perf_counter() - began) / count] * count

    def order(self) -> list[str]:
        """Return the sections in the order of a step."""
        names = [
            WAITING, "transfer", "normalise", "colour, normalise", "online forward", "target forward",
            *(f"objective {name}" for name in self.network.objectives),
            "monitors", "backward", "gradient norm, checks", "clipping", "optimizer", "EMA", REST,
        ]  # fmt: skip
        return [name for name in names if name in self.clock.seconds]


def _mean(seconds: list[float]) -> float:
    return math.fsum(seconds) / len(seconds)
