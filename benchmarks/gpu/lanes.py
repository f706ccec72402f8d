"""Lanes: the rehearsal's recipe on one device, one optimizer step at a time, and the difference between two of them.

All lanes see the same images, boxes and draws, and start from the same weights. Views are flipped but keep their
colours, and the optimizer is SGD without momentum; `gpu.recipe` says why.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gpu.recipe import GENTLE, PLAIN_VIEWS, plan_of
from sslkit.data.opening import prepare
from sslkit.data.views import to_device
from sslkit.plugins import Plugins
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.setup import set_up
from sslkit.training.step import TrainStep

STEPS, BATCH = (10, 32) if torch.cuda.is_available() else (5, 8)
"""Steps to compare, and images per step."""
LOSS, UPDATE = 2e-5, 0.02
"""Largest differences of a float32 step from the same state: of the loss and of each term, which are of size 1; and of
the change of the weights, relative to its size. The second is as large as ReLUs make it; see `gpu.parts.agreement`."""


class Lane:
    """A run's optimizer steps on one device, in one precision.

    Args:
        precision: As a recipe takes it.
        accelerator: "cpu" or "cuda".
        follows: Whether it takes over the reference's state before every step.
        one_dnn: Whether the CPU's library for convolutions is used.
        nudge: Relative change of the first weights.
        sets: Changes to the recipe.
        plugins: The plugins, instead of the installed ones.
        options: Options of `sslkit run`.
    """

    def __init__(
        self, precision: str, accelerator: str, follows: bool = False, one_dnn: bool = True, nudge: float = 0.0,
        sets: Sequence[str] = (), plugins: Plugins | None = None, **options: bool,
    ) -> None:  # fmt: skip
        size = (f"batch_size={BATCH}", f"source.images={4 * BATCH}", f'precision="{precision}"')
        changes = (*size, *GENTLE, *PLAIN_VIEWS, *sets)
        plan, file = plan_of(*changes, plugins=plugins)
        run = RunOptions(accelerator=accelerator, devices="1", workers=0, monitor_every=0, **options)  # type: ignore[arg-type]
        source, proposals = prepare(plan, file)
        self.follows, self.one_dnn = follows, one_dnn
        self.setup = set_up(plan, run, launch(plan, run), source, proposals)
        self.network = self.setup.network
        self.train_step = TrainStep(self.setup)
        self.network.train()
        if nudge:
            self.nudge(nudge)
        self.start = self.before = self.weights()
        self.loader = self.setup.loader(0, STEPS + 1)
        self.names = {"loss", *(item.name for item in self.setup.plan.objectives)}

    def nudge(self, size: float) -> None:
        """Change every weight by up to this relative size."""
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.network.online.parameters():
                noise = 2 * torch.rand(weight.shape, generator=generator) - 1
                weight.mul_(1 + size * noise.to(weight.device))

    def weights(self) -> Tensor:
        """Return all parameters of the online network in one vector, in float64 on the CPU."""
        return torch.cat([weight.detach().cpu().double().flatten() for weight in self.network.online.parameters()])

    def first_views(self) -> dict[str, Tensor]:
        """Return the normalised views of the first batch, on the CPU."""
        with self.setup.loader(0, 1) as loader:
            batch = to_device(next(loader), self.setup.plan.views, self.setup.device)
        return {name: value.cpu() for name, value in batch.items() if name.startswith("pixels.")}

    def take_over(self, reference: Lane) -> None:
        """Take over networks, statistics and optimizer of another lane, as a resumed run does."""
        state = copy.deepcopy(reference.train_step.state.state_dict())  # torch's optimizers keep the tensors they load
        self.train_step.state.load_state_dict(state)

    def step(self) -> dict[str, float]:
        """Take a step; return the loss and its terms."""
        self.before = self.weights()
        with nullcontext() if self.one_dnn else torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
            terms = self.train_step(self.loader)
        return {name: value for name, value in terms.items() if name.removesuffix(".loss") in self.names}

    @property
    def update(self) -> Tensor:
        """The change of the weights in the last step."""
        return self.weights() - self.before


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute matrix products and convolutions in float32, not in TF32, which has 10 bits of mantissa."""
    flags: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = False
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


def difference(
    name: str, mine: Mapping[str, float], theirs: Mapping[str, float], reference: Lane, lane: Lane
) -> dict[str, float]:
    """Return the largest difference of a term, and the distance of updates or weights."""
    terms = max(abs(theirs[term] - mine[term]) for term in mine)
    if lane.follows:
        apart = distance(lane.update, reference.update, reference.update)
        return {f"{name}: terms": terms, f"{name}: update": apart}
    apart = distance(lane.weights(), reference.weights(), reference.weights() - reference.start)
    return {f"{name}: terms": terms, f"{name}: weights": apart}


def distance(value: Tensor, reference: Tensor, scale: Tensor) -> float:
    """Return |value - reference| / |scale|."""
    return float((value - reference).norm() / scale.norm())
