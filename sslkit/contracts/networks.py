"""Check what backbones, heads and objectives return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sslkit.api import Terms
from sslkit.axes import Axis, parse
from sslkit.contracts.arrays import named
from sslkit.contracts.blame import blamed, breach
from sslkit.contracts.handed import Handed
from sslkit.errors import PluginError
from sslkit.plugins import Component

_CUT = "do not detach what it returns, nor compute it under no_grad()"
_INSTEAD = "return a tensor of the dtype that it computes in, such as float32"


def run_backbone(component: Component, backbone: nn.Module, x: Tensor, first: bool = False) -> Mapping[str, Tensor]:
    """Return the rows of images (n 3 h w) that a backbone gives, checked.

    Args:
        component: The backbone's component.
        backbone: The backbone.
        x: The images.
        first: Whether this is a run's first step, in which checks may take time.

    Raises:
        PluginError: It failed, wrote into the images, or its rows are not those that `gives` and `dim` promise.
    """
    handed = Handed(component, {"the images": x}, first)
    with blamed(component, "forward"):
        rows: Any = backbone(x)
    if not isinstance(rows, Mapping):
        raise breach(component, "forward", f"returned {named(rows)}: return a dict, name of a row -> tensor")
    for name, spec in cast("Mapping[str, str]", backbone.gives).items():
        if name not in rows:
            have = ", ".join(map(repr, rows)) or "nothing"
            raise breach(component, "forward", f"returned {have}, and `gives` promises '{name}'")
        if fault := _row_fault(rows[name], x, parse(spec), {"f": cast("int", backbone.dim)}):
            raise breach(component, "forward", f"returned as '{name}' {fault} as `gives` and `dim` promise")
    handed.refuse_changes()
    if not any(rows[name].requires_grad for name in cast("Mapping[str, str]", backbone.gives)) and _trains(backbone, x):
        what = f"returned no row with a gradient, so that its parameters are not trained: {_CUT}"
        raise breach(component, "forward", f"{what}. A frozen backbone calls requires_grad_(False) in __init__()")
    return rows


def run_head(component: Component, head: nn.Module, x: Tensor, giver: Component, first: bool = False) -> Tensor:
    """Return the output (n d), or (n d h w), of a head, checked.

    Args:
        component: The head's component.
        head: The head.
        x: Its input, a row of the backbone or the output of another head.
        giver: The component that computed the input.
        first: Whether this is a run's first step, in which checks may take time.

    Raises:
        PluginError: It failed, wrote into its input, or its output is not what `gives` and `out_dim` promise.
    """
    handed = Handed(component, {"its input": x}, first)
    try:
        with blamed(component, "forward"):
            output: Any = head(x)
    except PluginError as error:
        _refuse_dtypes(component, head, [(giver, x)], error)
        raise
    if fault := _row_fault(output, x, parse(component.cls.gives), {"d": cast("int", head.out_dim)}):
        raise breach(component, "forward", f"returned {fault} as `gives` and `out_dim` promise")
    handed.refuse_changes()
    if not output.requires_grad and _trains(head, x):
        raise breach(component, "forward", f"returned a tensor without a gradient, which trains nothing: {_CUT}")
    return output  # type: ignore[no-any-return]


def run_objective(
    component: Component, objective: nn.Module, rows: Mapping[str, Tensor | None], givers: Mapping[str, Component],
    first: bool = False,
) -> Terms:  # fmt: skip
    """Return the terms and monitors of an objective, checked.

    Args:
        component: The objective's component.
        objective: The objective.
        rows: Parameter of `forward` -> row; None for an optional one that is not given.
        givers: Parameter of `forward` -> the component that computed its row, for rows of networks.
        first: Whether this is a run's first step, in which checks may take time.

    Raises:
        PluginError: It failed, wrote into its rows, or its terms are not scalars that its rows get a gradient from.
    """
    given = {name: row for name, row in rows.items() if row is not None}
    handed = Handed(component, given, first)
    try:
        with blamed(component, "forward"):
            returned: Any = objective(**rows)
    except PluginError as error:
        _refuse_dtypes(component, objective, [(givers[name], given[name]) for name in given if name in givers], error)
        raise
    terms = returned if isinstance(returned, Terms) else Terms(_as_terms(returned))
    if fault := _terms_fault(terms, [*given.values()]):
        raise breach(component, "forward", f"returned {fault}")
    handed.refuse_changes()
    return terms


def _as_terms(returned: Any) -> Any:
    return {"loss": returned} if isinstance(returned, Tensor) else returned


def refuse_own_backward(component: Component, network: nn.Module) -> None:
    """Refuse gradients that are there before the backward pass of the first step.

    Raises:
        PluginError: A parameter of the network has one.
    """
    if any(parameter.grad is not None for parameter in network.parameters()):
        what = "calls backward(), which adds gradients a second time: return the loss, and leave that to the run"
        raise breach(component, "forward", what)


def _trains(module: nn.Module, x: Tensor) -> bool:
    """Return whether a gradient is to flow through a module: to its parameters, or to what gave its input."""
    return torch.is_grad_enabled() and (x.requires_grad or any(item.requires_grad for item in module.parameters()))


def _refuse_dtypes(
    component: Component, module: nn.Module, inputs: Iterable[tuple[Component, Tensor]], error: PluginError
) -> None:
    """Blame the component that gave an input of another dtype than the failed module's own parameters.

    Raises:
        PluginError: There is one.
    """
    own = {item.dtype for item in module.parameters()}
    for giver, x in inputs:
        shorter = torch.is_autocast_enabled("cpu" if x.is_meta else x.device.type) and x.element_size() == 2
        if own and x.dtype not in own and not shorter:
            what = f"returned a tensor of {x.dtype}, which {component.kind} '{component.id}' cannot take: {_INSTEAD}"
            raise breach(giver, "forward", what) from error


def _row_fault(row: Any, x: Tensor, axes: Iterable[Axis], sizes: Mapping[str, int]) -> str | None:
    """Return what is wrong with a row of the inputs x (n ...), or None; the sizes of other axes are not known."""
    expected = [len(x), *(sizes.get(axis) if isinstance(axis, str) else axis for axis in axes)]
    if not isinstance(row, Tensor):
        return f"{named(row)}, not a tensor of shape {_shape(expected)}"
    if not row.is_floating_point():
        return f"a tensor of {row.dtype}, not of floats"
    if row.layout != torch.strided:
        return f"a tensor of the layout {row.layout}, not a dense one"
    if row.device != x.device:
        return f"a tensor on '{row.device}' for an input on '{x.device}', not on the same device"
    actual = row.shape
    if len(actual) == len(expected) and all(size in (None, a) for a, size in zip(actual, expected, strict=True)):
        return None
    return f"a tensor of shape {tuple(actual)} for {len(x)} inputs, not {_shape(expected)}"


def _shape(sizes: Iterable[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in sizes)})"


def _terms_fault(output: Terms, rows: Sequence[Tensor]) -> str | None:
    """Return what is wrong with the terms and monitors of an objective, or None."""
    for kind, values in (("term", output.terms), ("monitor", output.monitors)):
        if not isinstance(values, Mapping):
            return f"{named(values)}: return a scalar tensor, a dict of them, or sslkit.api.Terms"
        for name, value in values.items():
            if not isinstance(name, str):  # 1 and "1" would be one name in the metrics
                return f"{name!r} as the name of a {kind}: write a string"
            if fault := _scalar_fault(value) or _device_fault(value, rows[0].device, kind):
                return f"as {kind} {name!r} {fault}"
    if not output.terms:
        return "no terms: return at least one"
    if repeated := output.terms.keys() & output.monitors.keys():
        return f"{min(repeated)!r} as a term and as a monitor: give the monitor a name of its own"
    reads_trained = torch.is_grad_enabled() and any(row.requires_grad for row in rows)
    if reads_trained and not any(value.requires_grad or _is_zero(value) for value in output.terms.values()):
        return "terms without a gradient, which train nothing: do not detach what they are computed from"
    return None


def _is_zero(value: Tensor) -> bool:
    """Return whether a scalar is zero, as the loss of a batch may be that has nothing to compare."""
    return not value.is_meta and not bool(value)


def _scalar_fault(value: Any) -> str | None:
    if not isinstance(value, Tensor):
        return f"{named(value)}: return a scalar tensor"
    if value.ndim:
        return f"a tensor of shape {tuple(value.shape)}: return a scalar, such as its mean()"
    return None if value.is_floating_point() else f"a tensor of {value.dtype}: return a float"


def _device_fault(value: Tensor, device: torch.device, kind: str) -> str | None:
    """Return what is wrong with the device of a scalar; monitors are moved, and shapes are computed with any term."""
    if value.device == device or device.type == "meta" or (kind == "monitor" and not value.is_meta):
        return None
    return f"a tensor on '{value.device}', and its rows are on '{device}': make it there, row.new_zeros(())"
