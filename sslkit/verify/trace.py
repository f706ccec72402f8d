"""Take a few steps and write down what each is made of, so that other numbers of processes can be compared with it.

All of it computes in float64: what differs then differs by the method, and not by the order in which numbers are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslkit.data.bad_images import BadImage
from sslkit.data.loader import Loader
from sslkit.data.opening import prepare
from sslkit.networks.step_module import StepModule, StepOutput
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import RecipeFile
from sslkit.seeds import seed_of
from sslkit.training.flight_record import tensors
from sslkit.training.hardware import fabric_of
from sslkit.training.options import RunOptions
from sslkit.training.step import Passes, Stepper

Step = dict[str, dict[str, Tensor]]
"""Kind -> name -> numbers (n m), in the order in which a step makes them; what is made row by row has a row each."""
KINDS = (
    "initial weights", "images", "boxes", "views", "schedule",
    "forward", "terms", "gradients", "online", "target", "state", "processes",
)  # fmt: skip
"""Each depends on those before it, so that the first that differs is where a difference comes from."""
PER_ROW = ("images", "boxes", "views", "forward")
"""Kinds of which every process has a part of the rows."""


def trace(plan: Plan, text: RecipeFile, options: RunOptions, steps: int, whole: bool) -> tuple[list[Step], int]:
    """Take steps from the beginning, and write nothing.

    Args:
        plan: What is trained.
        text: Of the recipe.
        options: Among it the number of processes.
        steps: Optimizer steps.
        whole: Whether batch norm takes its statistics over all processes, also on devices where torch has none such.

    Returns:
        What each step was made of, joined over processes, and the number of this process.
    """
    fabric = fabric_of(plan, options)
    source, proposals = prepare(plan, text)
    stepper = Traced(plan, options, fabric, source, proposals)
    if whole and fabric.world_size > 1 and not stepper.shares_batch_norm:
        over_all(stepper.network, stepper._gather)
    return stepper.trace(steps), fabric.global_rank


class Traced(Stepper):
    """Takes steps and writes down what they are made of."""

    def make_network(self) -> StepModule:
        """Make both networks and the objectives in float64."""
        network = super().make_network().double()
        for part in (network.online, network.target):
            if part is not None:
                part.register_forward_pre_hook(_in_float64)
        return network

    def trace(self, steps: int) -> list[Step]:
        """Take `steps` optimizer steps, or as many as the run has."""
        self.network.train()
        stop = min(steps, self.steps)
        made: list[Step] = []
        with self.feed(stop) as feed:
            while self.step < stop:
                self.now: Step = {kind: {} for kind in KINDS}
                if not self.step:
                    self.now["initial weights"] = _digests(self.network.named_parameters())
                self.optimizer_step(feed)
                self._after()
                made.append(self._joined())
        return made

    def passes(self, feed: Loader) -> Passes:
        """Write down what every module makes, and of which images and boxes."""
        with _watched(self.network, self.epochs.micro, self.now["forward"], self.now["views"]):
            taken = super().passes(feed)
        for part, batch in enumerate(taken.batches):
            self.now["images"][f"pass {part}"] = batch["index"][:, None].double().cpu()
            boxes = {name: batch[name] for name in batch if name.startswith("boxes.")}
            self.now["boxes"] |= {f"{name}, pass {part}": digest_rows(held) for name, held in boxes.items()}
        return taken

    def agree(self, outcomes: list[StepOutput], bad: list[BadImage], taken: Passes | None = None) -> dict[str, float]:
        """Write down the objectives' terms."""
        told = super().agree(outcomes, bad, taken)
        self.now["terms"] = {name: _number(told[name]) for name in [*outcomes[0].terms, "loss"]}
        return told

    def clip(self) -> None:
        """Write down the gradients, and what the optimizer is told."""
        grads = ((name, held.grad) for name, held in self.network.named_parameters() if held.grad is not None)
        self.now["gradients"] = _digests(grads)
        for number, group in enumerate(self.optimizer.param_groups):
            told = {"learning rate": group["lr"], "weight decay": group.get("weight_decay", 0.0)}
            self.now["schedule"] |= {f"{name} of group {number}": _number(value) for name, value in told.items()}
        self.now["schedule"]["target momentum"] = _number(self.momentum())
        super().clip()

    def _after(self) -> None:
        """Write down what a step leaves."""
        parts = _digests(self.network.named_parameters())
        self.now["target"] = {name: held for name, held in parts.items() if name.startswith("target.")}
        self.now["online"] = {name: held for name, held in parts.items() if name not in self.now["target"]}
        kept = self.network.state_dict()  # what no checkpoint keeps is no state
        self.now["state"] = _digests((name, held) for name, held in kept.items() if name not in parts)

    def _joined(self) -> Step:
        """Join the rows of all processes, and write down how far their weights are apart."""
        all_ = [self.fabric.broadcast(self.now, src=rank) for rank in range(self.fabric.world_size)]
        rows = {
            kind: {name: torch.cat([one[kind][name] for one in all_]) for name in self.now[kind]} for kind in PER_ROW
        }
        apart = {
            name: torch.stack([one[kind][name] - held for one in all_]).abs().amax(0)
            for kind in ("online", "target")
            for name, held in all_[0][kind].items()
        }
        return {**all_[0], **rows, "processes": apart}


def _in_float64(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
    return (given[0].double(), *given[1:])


@contextmanager
def _watched(network: StepModule, images: int, made: dict[str, Tensor], views: dict[str, Tensor]) -> Iterator[None]:
    """Write down what the modules of both networks make of `images` images, and which views they are given."""

    def look(name: str, part: nn.Module, _: Any, returned: Any) -> None:
        for tensor in tensors(returned):
            if tensor.dim() and tensor.shape[0] % images == 0:  # others, as of position embeddings, have no rows
                made[_numbered(f"{name} ({type(part).__name__})", made)] = digest_rows(tensor)

    def see(name: str, _: nn.Module, given: Any) -> None:
        views[_numbered(f"views of the {name} network", views)] = digest_rows(given[0])

    parts = {name: part for name, part in network.named_modules() if name.startswith(("online.", "target."))}
    hooks = [part.register_forward_hook(partial(look, name)) for name, part in parts.items()]
    networks = {"online": network.online, "target": network.target}
    hooks += [part.register_forward_pre_hook(partial(see, name)) for name, part in networks.items() if part is not None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _numbered(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name with the number of the call, which is new."""
    call = 1
    while (numbered := f"{name}, call {call}") in taken:
        call += 1
    return numbered


def digest_rows(value: Tensor) -> Tensor:
    """Describe every row of (n ...) by two numbers, (n 2): its length, and its product with fixed random signs."""
    rows = value.detach().flatten(1).double().cpu() if value.dim() > 1 else value.detach().double().cpu()[:, None]
    signs = torch.randint(
        0, 2, rows.shape[1:], generator=torch.Generator().manual_seed(seed_of("signs", rows.shape[1]))
    )
    return torch.stack([rows.norm(dim=1), rows @ (2.0 * signs.double() - 1)], dim=1)


def _digests(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: digest_rows(held.reshape(1, -1)) for name, held in named}


def _number(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def over_all(network: nn.Module, gather: Callable[[Tensor], Tensor]) -> None:
    """Let every batch norm of a network take its statistics over all processes.

    As `torch.nn.SyncBatchNorm`, which wants a GPU; of use where what else differs is to be seen, not for speed.

    Args:
        network: Is changed.
        gather: Joins rows (b ...) of all processes, with gradients; each has as many.
    """
    for part in network.modules():
        if isinstance(part, _BatchNorm):
            part.forward = partial(_normalised, part, gather)  # type: ignore[method-assign]


def _normalised(norm: _BatchNorm, gather: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Normalise (b c ...) by the mean and variance over b and all other axes but c, in all processes."""
    if not norm.training:
        return type(norm).forward(norm, x)
    axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    means = gather(x.mean(axes)[None])
    mean = means.mean(0)
    centred = x - mean.view(shape)
    var = gather(centred.square().mean(axes)[None]).mean(0)
    _follow(norm, mean.detach(), var.detach(), x.numel() // x.shape[1] * len(means))
    y = centred * torch.rsqrt(var + norm.eps).view(shape)
    return y * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else y


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics; the variance that they keep is the unbiased one."""
    held = dict(norm.named_buffers(recurse=False))
    if not held:
        return
    held["num_batches_tracked"] += 1
    share = 1.0 / float(held["num_batches_tracked"]) if norm.momentum is None else norm.momentum
    held["running_mean"].lerp_(mean, share)
    held["running_var"].lerp_(var * count / max(1, count - 1), share)
