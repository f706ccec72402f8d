"""Time a few steps of a plan in each way that a CPU can compute them, and choose the fastest.

The steps are real ones, of the plan's networks, objectives, optimizer and view sizes, on noise. A trial takes about
five seconds at most on an idle machine. It draws no random number of the run, and leaves nothing behind but its result.

What is measured is the processor time of the main thread, which computes its share of every operation and waits for
the threads that help it: other processes on the machine change it little.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit.networks import strided_pointwise
from sslkit.networks.cost import step_batch
from sslkit.networks.small_maps import guarded
from sslkit.networks.step_module import LAYOUTS, StepModule
from sslkit.optim import make_optimizer
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import MemoryFormat
from sslkit.training import allocator
from sslkit.training.online_probes import unchanged_generators

MARGIN = 0.03
"""How much faster a mode must be than the one that is preferred to it."""
BUDGET_S = 2.0
"""No round of steps begins later than this after the first one."""
LONGEST_STEP_S = 0.7
"""A network that takes longer for a step of two images is not timed."""
LIMIT_S = 12.0
"""A trial that takes longer is given up: other processes keep the machine busy."""
BUSY = 1.5
"""On a busy machine, a trial takes this many times as long as its processor time. Its outcome means little."""
_STEP_S = 0.5
"""Steps have as many images as fit into this time, at most a micro-batch."""
_FIRST_IMAGES = 2
_ROUNDS = 8
_HOPELESS = 2.0
"""A mode that takes this many times as long as the fastest one is not timed again."""


@dataclass(frozen=True)
class Mode:
    """One way to compute a step."""

    precision: str
    memory_format: MemoryFormat

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format.replace('-', ' ')}"


PLAIN = Mode("32-true", "contiguous")
"""torch's own default: another mode must be clearly faster."""
FLOAT32 = (PLAIN, Mode("32-true", "channels-last"))
BFLOAT16 = (Mode("bf16-mixed", "channels-last"), Mode("bf16-mixed", "contiguous"))


@dataclass(frozen=True)
class Outcome:
    """The times of a trial.

    Attributes:
        seconds: Mode -> seconds of its fastest step; `PLAIN` is always there.
        images: Images of a step.
    """

    seconds: Mapping[Mode, float]
    images: int

    @property
    def choice(self) -> Mode:
        """The fastest mode, where each is preferred to those after it unless they are faster by `MARGIN`."""
        choice = PLAIN
        for mode in (*FLOAT32, *BFLOAT16):
            if self.seconds.get(mode, math.inf) * (1 + MARGIN) < self.seconds[choice]:
                choice = mode
        return choice

    @property
    def per_image(self) -> dict[str, float]:
        """Precision -> seconds per image, in its fastest memory format."""
        times: dict[str, float] = {}
        for mode, seconds in self.seconds.items():
            times[mode.precision] = min(times.get(mode.precision, math.inf), seconds / self.images)
        return times

    @property
    def reason(self) -> str:
        """Compare the choice with the fastest mode of the other precision, or of the other memory format."""
        choice = self.choice
        others = [mode for mode in self.seconds if mode.precision != choice.precision]
        others = others or [mode for mode in self.seconds if mode != choice]
        if not others:
            return "nothing else can be computed here"
        other = min(others, key=self.seconds.__getitem__)
        name = other.precision if other.precision != choice.precision else other.memory_format.replace("-", " ")
        ratio = self.seconds[other] / self.seconds[choice]
        if ratio >= _HOPELESS:
            return f"{ratio:.1f} times as fast here as {name}"
        if ratio < 1 + MARGIN:
            return f"{name} is not {100 * MARGIN:.0f} % faster here"
        return f"{100 * (ratio - 1):.0f} % faster here than {name}"


class NoOutcomeError(Exception):
    """A trial has no outcome; the message says why."""


def run_trial(plan: Plan, modes: Sequence[Mode]) -> Outcome:
    """Time steps of a plan on the CPU.

    Args:
        plan: The plan.
        modes: The modes to time, `PLAIN` among them.

    Raises:
        NoOutcomeError: A step takes too long to be timed or fails on noise, or the machine is busy.
    """
    allocator.keep_freed()
    with unchanged_generators(torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run gives the same ones
        try:
            return Trial(plan, modes).outcome()
        except NoOutcomeError:
            raise
        except Exception as error:  # of any kind: an objective may refuse noise
            raise NoOutcomeError(f"steps on noise fail ({type(error).__name__})") from error
        finally:
            allocator.trim()


class Trial:
    """The networks of a plan, and the steps that are timed with them.

    Args:
        plan: The plan.
        modes: The modes to time, `PLAIN` among them.
    """

    def __init__(self, plan: Plan, modes: Sequence[Mode]) -> None:
        self.plan, self.modes = plan, modes
        self.began, self.began_thread = time.monotonic(), time.thread_time()
        self.network = StepModule(plan).train()
        strided_pointwise.guard(self.network)
        self.trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.limit = plan.recipe.batch_size // plan.recipe.accumulate

    def outcome(self) -> Outcome:
        """Time rounds of all modes, there and back again, until the time is up.

        Raises:
            NoOutcomeError: A step takes too long to be timed, or the machine is busy.
        """
        batch = self.largest_batch()
        seconds: dict[Mode, float] = {}
        modes, began = list(self.modes), time.monotonic()
        for number in range(_ROUNDS):
            if number and time.monotonic() - began > BUDGET_S:
                break
            for mode in modes if number % 2 == 0 else reversed(modes):
                seconds[mode] = min(seconds.get(mode, math.inf), self.time(mode, batch))
            best = min(seconds.values())
            modes = [mode for mode in modes if seconds[mode] < _HOPELESS * best]
            if len(modes) == 1:
                break
        if self.elapsed() > BUSY * (time.thread_time() - self.began_thread):
            raise NoOutcomeError("other processes keep this machine busy")
        return Outcome({mode: value for mode, value in seconds.items() if value < math.inf}, len(batch["index"]))

    def elapsed(self) -> float:
        """Return the seconds since the trial began."""
        return time.monotonic() - self.began

    def largest_batch(self) -> dict[str, Tensor]:
        """Return a batch with as many images as can be timed.

        Raises:
            NoOutcomeError: A step takes too long even with few images.
        """
        images = min(_FIRST_IMAGES, self.limit)
        while True:
            batch = noise(self.plan, images)
            seconds = self.time(PLAIN, batch)
            if seconds > LONGEST_STEP_S:
                raise NoOutcomeError(f"a step of {images} images takes {seconds:.1f} s")
            fitting = int(images * _STEP_S / seconds)
            if images == self.limit or fitting < 1.5 * images:
                return batch
            images = min(self.limit, fitting, 4 * images)

    def time(self, mode: Mode, batch: Mapping[str, Tensor]) -> float:
        """Return the seconds of the faster one of two steps, or of the first if that takes very long.

        It is infinity for a mode other than `PLAIN` that fails.

        Raises:
            NoOutcomeError: The trial has taken too long.
        """
        if self.elapsed() > LIMIT_S:
            raise NoOutcomeError("other processes keep this machine busy")
        with self.computing_in(mode):
            optimizer = make_optimizer(self.plan.recipe.optimizer.use, self.network, 0.0, self.plan.optimizer)
            try:
                first = self.step(mode, batch, optimizer)
                return first if first > LONGEST_STEP_S else min(first, self.step(mode, batch, optimizer))
            except RuntimeError:
                if mode == PLAIN:
                    raise
                return math.inf

    @contextmanager
    def computing_in(self, mode: Mode) -> Iterator[None]:
        """Prepare the networks for a mode."""
        self.network.layout = LAYOUTS[mode.memory_format]
        self.network.to(memory_format=self.network.layout)
        with guarded(self.network) if mode.precision == "bf16-mixed" else nullcontext():
            yield

    def step(self, mode: Mode, batch: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> float:
        """Take a step at learning rate 0, and return its seconds."""
        began = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode.precision == "bf16-mixed"):
            loss = self.network(batch).loss
        loss.backward()
        torch.nn.utils.get_total_norm([item.grad for item in self.trained if item.grad is not None])
        optimizer.step()
        for parameter in self.trained:
            parameter.grad = None
        self.network.update_target(0.99)
        return time.thread_time() - began


def noise(plan: Plan, images: int) -> dict[str, Tensor]:
    """Return a batch of noise whose pixels are laid out as the loader's: channels last."""
    batch = step_batch(plan, images)
    return {
        name: value.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3) if name.startswith("pixels.") else value
        for name, value in batch.items()
    }
