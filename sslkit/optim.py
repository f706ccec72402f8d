"""Optimizers: functions whose keyword-only parameters are the options of a recipe's `[optimizer]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from sslkit.errors import PluginError, RecipeError, closest

Decay = Annotated[float, Field(ge=0, description="Weight decay")]
"""Type of the option `weight_decay`."""
Momentum = Annotated[float, Field(ge=0, lt=1, description="Momentum; 0 keeps no buffers")]
"""Type of the option `momentum`."""
Exclude = Annotated[bool, Field(description="No weight decay for biases and normalisation layers")]
"""Type of the option `exclude`."""
Beta = Annotated[float, Field(ge=0, lt=1)]
"""Type of each of AdamW's two `betas`."""

_NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm,
)  # fmt: skip


def sgd(
    module: nn.Module, lr: float, *, momentum: Momentum = 0.9, weight_decay: Decay = 1e-4,
    nesterov: bool = False, exclude: Exclude = False,
) -> Optimizer:  # fmt: skip
    """Stochastic gradient descent with momentum."""
    groups = param_groups(module, weight_decay, exclude)
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=_fuses(module))


def adamw(
    module: nn.Module, lr: float, *, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: Decay = 0.05,
    eps: Annotated[float, Field(gt=0, description="Added to the denominator")] = 1e-8, exclude: Exclude = True,
) -> Optimizer:  # fmt: skip
    """Adam with decoupled weight decay."""
    groups = param_groups(module, weight_decay, exclude)
    return AdamW(groups, lr=lr, betas=betas, eps=eps, fused=_fuses(module))


def lars(
    module: nn.Module, lr: float, *, momentum: Momentum = 0.9, weight_decay: Decay = 1e-6,
    eta: Annotated[float, Field(gt=0, description="Trust coefficient")] = 1e-3,
    exclude: Annotated[bool, Field(description="No decay and no scaling for biases and normalisation layers")] = True,
    clip: Annotated[bool, Field(description="LARC: only shorten SGD's step, to eta of the weights' norm")] = False,
) -> Optimizer:  # fmt: skip
    """SGD with steps scaled to the norm of the weights, tensor by tensor: for batches in the thousands."""
    return LARS(param_groups(module, weight_decay, exclude), lr=lr, momentum=momentum, eta=eta, clip=clip)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adamw": adamw, "lars": lars}
"""Name in a recipe -> `maker(module, lr, *, options)`; `sslkit.foreign.signatures.schema` reads its signature."""


def make_optimizer(name: str, module: nn.Module, lr: float, options: Mapping[str, Any]) -> Optimizer:
    """Make the optimizer for the trainable parameters of `module`.

    Args:
        name: One of `OPTIMIZERS`.
        module: The module to train; parameters with `requires_grad=False` are left out.
        lr: Learning rate of the first step; set `param_groups[i]["lr"]` of every group before each step.
        options: The optimizer's options, already validated.

    Raises:
        PluginError: The optimizer is unknown.
        RecipeError: The options contradict each other.
    """
    if name not in OPTIMIZERS:
        raise PluginError(f"unknown optimizer '{name}'{closest(name, OPTIMIZERS)} (known: {', '.join(OPTIMIZERS)})")
    try:
        return OPTIMIZERS[name](module, lr, **options)
    except ValueError as error:
        raise RecipeError(f'[optimizer] use = "{name}": {error}') from error


def _fuses(module: nn.Module) -> bool:
    """Return whether torch's fused optimizers take these parameters: plain ones on a CPU or an NVIDIA GPU."""
    return all(type(p) is nn.Parameter and p.device.type in ("cpu", "cuda") for p in module.parameters())


def param_groups(module: nn.Module, weight_decay: float, exclude: bool) -> list[dict[str, Any]]:
    """Split trainable parameters into those with weight decay (and LARS scaling) and those without.

    Parameters are excluded from weight decay by the type of the module that owns them and by their number of
    dimensions, not by name: `downsample.1`, the batch norm of a ResNet's shortcut, has no "bn" in its name.

    Args:
        module: The module to train; a parameter that two of its modules share counts once.
        weight_decay: Weight decay of the first group.
        exclude: Whether to put all biases and all parameters of normalisation layers into a second group.

    Returns:
        One or two groups; empty groups are left out.

    Raises:
        ValueError: `module` has no trainable parameter.
    """
    decayed: dict[int, Tensor] = {}
    plain: dict[int, Tensor] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                group = plain if exclude and is_excluded(owner, name, parameter) else decayed
                group.setdefault(id(parameter), parameter)
    if not decayed and not plain:
        raise ValueError("no parameter requires gradients")
    groups: list[dict[str, Any]] = [
        {"params": list(decayed.values()), "weight_decay": weight_decay, "scaled": True},
        {"params": list(plain.values()), "weight_decay": 0.0, "scaled": False},
    ]
    return [group for group in groups if group["params"]]


def is_excluded(owner: nn.Module, name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a bias or belongs to a normalisation layer, of any library."""
    return isinstance(owner, _NORMS) or parameter.ndim <= 1 or name == "bias" or name.endswith("_bias")


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888) in the order of BYOL's code.

    For each tensor, with gradient g and weights p:

        u = g + weight_decay p
        u = eta |p| / |u| u      in groups that are scaled, where both norms are positive
        v = momentum v + u
        p = p - lr v

    With `clip`, the factor is min(eta |p| / (lr |u|), 1): before momentum, a step is no longer than SGD's nor than eta
    times the norm of the weights, as with `clip` of NVIDIA's apex (LARC) and `clip_lr` of solo-learn.

    The paper divides by |g| + weight_decay |p| instead of |u| and puts the learning rate inside v. Lightly divides as
    the paper does, and never scales groups without weight decay. At a decay of 1e-6 the two hardly differ.

    Args:
        params: Tensors or groups; a group with `scaled=False` gets plain SGD with momentum.
        lr: Learning rate; a group's `lr` may be changed before any step.
        momentum: 0 keeps no buffers.
        weight_decay: Weight decay of groups that set none.
        eta: Trust coefficient.
        clip: Only shorten the steps of SGD.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.9,
        weight_decay: float = 0.0, eta: float = 1e-3, clip: bool = False,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "scaled": True}
        super().__init__(params, defaults)
        self.clip = clip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            for part in _batches(weights):
                self._update(group, part)
        return loss

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        updates = torch._foreach_add([_grad(p) for p in weights], weights, alpha=group["weight_decay"])
        if group["scaled"]:
            torch._foreach_mul_(updates, _trust(weights, updates, group["eta"], group["lr"] if self.clip else None))
        if group["momentum"]:
            updates = self._accumulate(group["momentum"], weights, updates)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _accumulate(self, momentum: float, weights: list[Tensor], updates: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Update and return v <- momentum v + u; v is 0 before the first step."""
        for weight, update in zip(weights, updates, strict=True):
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(update)
        buffers = tuple(self.state[weight]["momentum_buffer"] for weight in weights)
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, updates)
        return buffers


def _batches(weights: list[Tensor]) -> list[list[Tensor]]:
    """Split tensors into groups updated in one call: single tensors on a CPU, for its cache, elsewhere all of them."""
    if weights and weights[0].device.type == "cpu":
        return [[weight] for weight in weights]
    return [weights] if weights else []


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _trust(weights: list[Tensor], updates: tuple[Tensor, ...], eta: float, clip_lr: float | None) -> tuple[Tensor, ...]:
    """Return eta |p| / |u| per tensor, 1 where either is 0, without waiting for the device."""
    p, u = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(updates))
    ratio = eta * p / u if clip_lr is None else (eta * p / (clip_lr * u)).clamp(max=1)
    return torch.where((p > 0) & (u > 0), ratio, torch.ones_like(p)).unbind()
