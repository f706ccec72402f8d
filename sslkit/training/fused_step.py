"""Steps of torch's fused SGD and AdamW on a CPU, without what torch prepares around the kernel in each of them.

torch looks up the state of every parameter, groups tensors by device and type, and opens a profiler range: on small
networks this takes several times as long as the kernel. Here the lists of tensors are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import optimizer as torch_optimizer

Lists = Sequence[list[Tensor]]


class Group(NamedTuple):
    """The tensors of a parameter group.

    Attributes:
        options: The group itself, whose learning rate and weight decay may change before every step.
        state: For each entry of an optimizer's state, its tensors.
    """

    options: Mapping[str, Any]
    params: list[Tensor]
    state: Lists


class FusedStep:
    """Take steps of an optimizer, bit for bit as `optimizer.step()` does.

    torch itself takes the first step, also after a state was loaded, and every step in which anything is unusual: a
    parameter without a gradient, a hook, an option that needs more than the kernel.

    Args:
        optimizer: Any optimizer of torch.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.kernel, self.entries = _KERNELS.get(type(optimizer), (None, ()))
        self.groups: list[Group] | None = None
        self.state: object = None

    def __call__(self) -> None:
        """Take a step."""
        optimizer = self.optimizer
        if self.groups is None or self.state is not optimizer.state or _has_hooks(optimizer):
            _fill_buffers(optimizer)
            optimizer.step()
            self.groups, self.state = self._collect(), optimizer.state
            return
        grads = [[parameter.grad for parameter in group.params] for group in self.groups]
        if any(grad is None for part in grads for grad in part):
            optimizer.step()
            return
        assert self.kernel is not None
        with torch.no_grad():
            for group, part in zip(self.groups, grads, strict=True):
                self.kernel(group, part)  # type: ignore[arg-type]

    def _collect(self) -> list[Group] | None:
        """Return the tensors of every group; None where the kernel alone would not be the whole step."""
        groups = self.optimizer.param_groups
        params = [parameter for group in groups for parameter in group["params"]]
        kinds = {(parameter.device.type, parameter.dtype, type(parameter)) for parameter in params}
        if self.kernel is None or len(kinds) != 1 or params[0].device.type != "cpu" or not all(map(_is_plain, groups)):
            return None
        made = [Group(group, group["params"], [self._entry(group, name) for name in self.entries]) for group in groups]
        has_no_gradient_yet = any(tensor is None for group in made for entry in group.state for tensor in entry)
        return None if has_no_gradient_yet else made

    def _entry(self, group: Mapping[str, Any], name: str) -> list[Tensor]:
        """Return one entry of the state of a group's parameters, with None where there is no state."""
        if name == "momentum_buffer" and not group["momentum"]:
            return []
        state = self.optimizer.state
        return [state.get(parameter, {}).get(name) for parameter in group["params"]]


def _fill_buffers(optimizer: Optimizer) -> None:
    """Give a momentum of zero to parameters that get a gradient later than others: torch's fused SGD fails on them."""
    if type(optimizer) is not SGD or not optimizer.state:
        return
    for group in optimizer.param_groups:
        if group["fused"] and group["momentum"]:
            for parameter in group["params"]:
                if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _is_plain(group: Mapping[str, Any]) -> bool:
    """Return whether a group has nothing that torch does besides the kernel."""
    unusual = ("maximize", "differentiable", "amsgrad", "capturable")
    return bool(group.get("fused")) and isinstance(group["lr"], float) and not any(map(group.get, unusual))


def _has_hooks(optimizer: Optimizer) -> bool:
    """Return whether anything else is called with a step: hooks, or a replacement of `step`."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or "step" in vars(optimizer)
    )


def _sgd(group: Group, grads: list[Tensor]) -> None:
    options, (buffers,) = group.options, group.state
    torch._fused_sgd_(
        group.params, grads, buffers, weight_decay=options["weight_decay"], momentum=options["momentum"],
        lr=options["lr"], dampening=options["dampening"], nesterov=options["nesterov"], maximize=False,
        is_first_step=False, grad_scale=None, found_inf=None,
    )  # fmt: skip


def _adamw(group: Group, grads: list[Tensor]) -> None:
    options, (means, squares, steps) = group.options, group.state
    beta1, beta2 = options["betas"]
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        group.params, grads, means, squares, [], steps, amsgrad=False, lr=options["lr"], beta1=beta1, beta2=beta2,
        weight_decay=options["weight_decay"], eps=options["eps"], maximize=False, grad_scale=None, found_inf=None,
    )  # fmt: skip


_KERNELS: Mapping[type[Optimizer], tuple[Callable[[Group, list[Tensor]], None] | None, Sequence[str]]] = {
    SGD: (_sgd, ("momentum_buffer",)),
    AdamW: (_adamw, ("exp_avg", "exp_avg_sq", "step")),
}
"""Optimizer -> the function that calls its kernel, and the entries of its state, in the kernel's order."""
