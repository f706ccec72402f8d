"""Record a few steps in detail, so that different numbers of ranks can be compared.

Everything computes in float64, so that differences come from the method and not from the order of additions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslkit.data.loader import Loader
from sslkit.data.opening import prepare
from sslkit.networks import StepModule
from sslkit.networks.sharding import local
from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.seeds import seed_of
from sslkit.training import agreement
from sslkit.training.flight_record import tensors
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.setup import make_network, set_up, shares_batch_norm
from sslkit.training.step import MicroBatches, TrainStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Step = dict[str, dict[str, Tensor]]
"""Kind -> name -> numbers (n m), in the order of a step; kinds that have rows of images have one row for each."""
KINDS = (
    "initial weights", "images", "boxes", "views", "schedule",
    "forward", "terms", "gradients", "online", "target", "state", "processes",
)  # fmt: skip
"""Kinds of records. Each depends on those before it, so that the first that differs is the origin of a difference.
"processes" is how far apart the ranks' weights are."""
_OF_MODULES = ("_parameters", "_buffers", "_modules")
PER_ROW = ("images", "boxes", "views", "forward")
"""Kinds whose rows are distributed over ranks."""


def trace(
    plan: Plan, recipe_file: RecipeFile, options: RunOptions, steps: int, whole_batch_norm: bool
) -> tuple[list[Step], int]:
    """Take the first steps of a run and record them; write nothing.

    Args:
        plan: The plan to train.
        recipe_file: The plan's recipe.
        options: Options that set the number of ranks.
        steps: Optimizer steps.
        whole_batch_norm: Take batch norm statistics over all ranks, even on devices where torch does not support that.

    Returns:
        The record of each step, joined over ranks, and the rank of this process.
    """
    plan = replace(plan, recipe=plan.recipe.model_copy(update={"precision": "32-true"}))  # no autocast below float64
    fabric = launch(plan, options)
    source, proposals = prepare(plan, recipe_file)
    setup = set_up(plan, options, fabric, source, proposals, network_in_float64)
    if whole_batch_norm and fabric.world_size > 1 and not shares_batch_norm(plan, fabric):
        use_global_batch_norm(setup.network, partial(agreement.gather, fabric))
    return TracedSteps(setup).trace(steps), fabric.global_rank


def network_in_float64(plan: Plan, fabric: Fabric) -> StepModule:
    """Make both networks and the objectives in float64."""
    network = make_network(plan, fabric).double()
    for part in (network.online, network.target):
        if part is not None:
            part.register_forward_pre_hook(_in_float64)
    return network


class TracedSteps(TrainStep):
    """Take optimizer steps, and record everything that goes into and comes out of each.

    Attributes:
        record: The record of the current step.
        begun: Tensors that no checkpoint holds, before the first step; one that stays as it is, such as memory that is
            never written, is no state.
    """

    record: Step
    begun: dict[str, Tensor]

    def trace(self, steps: int) -> list[Step]:
        """Return the records of `steps` optimizer steps, or fewer if the run is shorter."""
        self.network.train()
        stop = min(steps, self.setup.steps)
        records: list[Step] = []
        self.begun = _digests(_unsaved(self.network))
        with self.setup.loader(0, stop) as loader:
            while self.state.step < stop:
                self.record = {kind: {} for kind in KINDS}
                if not self.state.step:
                    self.record["initial weights"] = _digests(self.network.named_parameters())
                self(loader)
                self._record_networks()
                records.append(self._joined())
        return records

    def accumulate(self, loader: Loader) -> MicroBatches:
        """Record images, boxes, views, and the output of every module."""
        micro_batch = self.setup.epochs.micro_batch_size
        with _watched(self.network, micro_batch, self.record["forward"], self.record["views"]):
            micro = super().accumulate(loader)
        for part, batch in enumerate(micro.batches):
            self.record["images"][f"micro-batch {part}"] = batch["index"][:, None].double().cpu()
            boxes = {name: batch[name] for name in batch if name.startswith("boxes.")}
            rows = {f"{name}, micro-batch {part}": digest_rows(values) for name, values in boxes.items()}
            self.record["boxes"] |= rows
        return micro

    def all_reduce(self, micro: MicroBatches, last: bool = False) -> dict[str, float]:
        """Record the objectives' terms."""
        terms = super().all_reduce(micro, last)
        self.record["terms"] = {name: _number(terms[name]) for name in [*micro.outputs[0].terms, "loss"]}
        return terms

    def measure(self, micro: MicroBatches) -> dict[str, float]:
        """Record the gradients and the schedules, before gradients are clipped."""
        parameters = self.network.named_parameters()
        self.record["gradients"] = _digests((name, one.grad) for name, one in parameters if one.grad is not None)
        for number, group in enumerate(self.setup.optimizer.param_groups):
            values = {"learning rate": group["lr"], "weight decay": group.get("weight_decay", 0.0)}
            self.record["schedule"] |= {f"{name} of group {number}": _number(value) for name, value in values.items()}
        self.record["schedule"]["target momentum"] = _number(self.momentum())
        return super().measure(micro)

    def _record_networks(self) -> None:
        """Record the networks after a step."""
        parameters = _digests(self.network.named_parameters())
        self.record["target"] = {name: one for name, one in parameters.items() if name.startswith("target.")}
        self.record["online"] = {name: one for name, one in parameters.items() if name not in self.record["target"]}
        saved = self.network.state_dict()  # buffers that no checkpoint holds are not part of the state
        states = [(name, one) for name, one in saved.items() if name not in parameters]
        self.record["state"] = _digests(states)
        for name, one in _digests(_unsaved(self.network)).items():
            if name not in self.begun or not torch.allclose(one, self.begun[name], rtol=0, atol=0, equal_nan=True):
                self.record["state"][name] = one

    def _joined(self) -> Step:
        """Join the rows of all ranks, and add how far apart their weights are."""
        fabric = self.setup.fabric
        records = [fabric.broadcast(self.record, src=rank) for rank in range(fabric.world_size)]
        rows = {
            kind: {name: torch.cat([one[kind][name] for one in records]) for name in self.record[kind]}
            for kind in PER_ROW
        }
        apart = {
            name: torch.stack([one[kind][name] - value for one in records]).abs().amax(0)
            for kind in ("online", "target")
            for name, value in records[0][kind].items()
        }
        return {**records[0], **rows, "processes": apart}


UNSAVED = ", in no checkpoint"
"""The end of names of tensors that objectives and heads hold besides parameters and buffers of checkpoints."""


def _unsaved(network: StepModule) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors and arrays in attributes of objectives and heads, which `state_dict` leaves out.

    Names hold the shape: where that depends on the number of rows, as for a mask, there is nothing to compare.
    """
    for parts, prefix in ((network.objectives, "objectives"), (network.online.projectors, "online.projectors"),
                          (network.online.predictors, "online.predictors")):  # fmt: skip
        for name, part in parts.named_modules(prefix=prefix):
            own = {key: value for key, value in vars(part).items() if key not in _OF_MODULES}
            own |= {key: part._buffers[key] for key in part._non_persistent_buffers_set}
            for key, value in own.items():
                for number, one in enumerate(_held(value)):
                    yield f"{name}.{key}[{number}] {tuple(one.shape)}{UNSAVED}", one


def _held(value: Any) -> list[Tensor]:
    """Return the tensors, and NumPy's arrays of numbers, of a nested value, in order."""
    if isinstance(value, np.ndarray):
        return [torch.from_numpy(np.array(value, np.float64))] if value.dtype.kind in "biuf" else []
    if isinstance(value, Tensor):
        return [] if value.is_complex() or value.is_meta else [local(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [one for part in value for one in _held(part)] if isinstance(value, (list, tuple, deque)) else []


def _in_float64(part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
    return (inputs[0].double(), *inputs[1:])


@contextmanager
def _watched(network: StepModule, images: int, outputs: dict[str, Tensor], views: dict[str, Tensor]) -> Iterator[None]:
    """Record the outputs of all modules of both networks for `images` images, and the views that the networks see."""

    def record_output(name: str, part: nn.Module, _: Any, returned: Any) -> None:
        for tensor in tensors(returned):
            if tensor.dim() and tensor.shape[0] % images == 0:  # others, such as position embeddings, have no rows
                outputs[_numbered(f"{name} ({type(part).__name__})", outputs)] = digest_rows(tensor)

    def record_views(name: str, _: nn.Module, inputs: Any) -> None:
        views[_numbered(f"views of the {name} network", views)] = digest_rows(inputs[0])

    parts = {name: part for name, part in network.named_modules() if name.startswith(("online.", "target."))}
    hooks = [part.register_forward_hook(partial(record_output, name)) for name, part in parts.items()]
    networks = {"online": network.online, "target": network.target}
    hooks += [
        part.register_forward_pre_hook(partial(record_views, name))
        for name, part in networks.items()
        if part is not None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _numbered(name: str, existing: Mapping[str, Any]) -> str:
    """Return the name with the number of the call, the first that does not exist yet."""
    call = 1
    while (numbered := f"{name}, call {call}") in existing:
        call += 1
    return numbered


def digest_rows(value: Tensor) -> Tensor:
    """Return two numbers (n 2) for each row of (n ...): its norm, and its product with fixed random signs."""
    rows = value.detach().flatten(1).double().cpu() if value.dim() > 1 else value.detach().double().cpu()[:, None]
    signs = torch.randint(
        0, 2, rows.shape[1:], generator=torch.Generator().manual_seed(seed_of("signs", rows.shape[1]))
    )
    return torch.stack([rows.norm(dim=1), rows @ (2.0 * signs.double() - 1)], dim=1)


def _digests(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: digest_rows(value.reshape(1, -1)) for name, value in named}


def _number(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def use_global_batch_norm(network: nn.Module, gather: Callable[[Tensor], Tensor]) -> None:
    """Make every batch norm of a network take its statistics over all ranks.

    This is `torch.nn.SyncBatchNorm`, which needs a GPU, for comparisons on any device; it is not fast.

    Args:
        network: The network, changed in place.
        gather: Joins the rows (b ...) of all ranks, the same number from each, with gradients.
    """
    for part in network.modules():
        if isinstance(part, _BatchNorm):
            part.forward = partial(_normalise, part, gather)  # type: ignore[method-assign]


def _normalise(norm: _BatchNorm, gather: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Normalise (b c ...) with the mean and variance over all axes but c, and over all ranks."""
    if not norm.training:
        return type(norm).forward(norm, x)
    axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    means = gather(x.mean(axes)[None])
    mean = means.mean(0)
    centred = x - mean.view(shape)
    var = gather(centred.square().mean(axes)[None]).mean(0)
    _update_statistics(norm, mean.detach(), var.detach(), x.numel() // x.shape[1] * len(means))
    y = centred * torch.rsqrt(var + norm.eps).view(shape)
    return y * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else y


@torch.no_grad()
def _update_statistics(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Update the running statistics; their variance is the unbiased one."""
    buffers = dict(norm.named_buffers(recurse=False))
    if not buffers:
        return
    buffers["num_batches_tracked"] += 1
    share = 1.0 / float(buffers["num_batches_tracked"]) if norm.momentum is None else norm.momentum
    buffers["running_mean"].lerp_(mean, share)
    buffers["running_var"].lerp_(var * count / max(1, count - 1), share)
