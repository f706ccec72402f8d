"""Name the components that a failed backward pass may be the fault of, and those whose loss trains nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from sslkit.contracts.blame import own_line
from sslkit.errors import PluginError, SslkitError, is_out_of_memory
from sslkit.foreign.isolation import describe
from sslkit.foreign.places import location
from sslkit.plugins import Component

Part = tuple[Component, nn.Module]
_TWICE = "backward through the graph a second time"
_CAUSES = {
    _TWICE: "a tensor of an earlier step was kept with its graph: keep x.detach(). Or forward() calls backward()",
    "modified by an inplace operation": "an operation in place, such as x += 1, x.clamp_() or x[i] = 0, overwrote what "
    "the gradient is computed from: write x = x + 1, or work on a copy, `.clone()`",
    "gradient": "backward() of a torch.autograd.Function returns one gradient for each input of its forward(), of the "
    "same shape",
    "dtype": "tensors of several dtypes meet: convert them in forward(), such as x.float()",
}
"""Part of torch's message -> what usually causes it."""
_LOST = ("gloo", "connection closed", "connection reset", "monitoredbarrier", "nccl", "tcpstore", "broken pipe")
"""Parts of torch's messages that say that another process cannot be reached."""
_CUSTOM = re.compile(r"[Ff]unction (\w+)Backward returned")
_ADVICE = re.compile(r" (Hint: the backtrace|Hint: enable anomaly|Saved intermediate values).*", re.DOTALL)
"""What torch's messages add about its own tools."""


def backward_failure(error: BaseException, parts: Sequence[Part]) -> PluginError | None:
    """Return the error of the components that a failed backward pass may be the fault of.

    Args:
        error: What the backward pass raised.
        parts: Every component whose code the pass may run, with its module.

    Returns:
        The error to raise; None for sslkit's own errors, lost processes, and devices, whose errors may come late.
    """
    if isinstance(error, SslkitError) or is_lost(error) or is_out_of_memory(error):
        return None
    if type(error).__name__ == "AcceleratorError":
        return None
    causes = [cause for part, cause in _CAUSES.items() if part in str(error)]
    return failure_by_lines("the backward pass failed", error, parts, causes[:1])


def failure_by_lines(what: str, error: BaseException, parts: Sequence[Part], causes: Sequence[str]) -> PluginError:
    """Return the error of the components whose lines the traceback has; where it has none, of all that may be at fault.

    Args:
        what: What failed.
        error: What was raised.
        parts: Every component whose code may have run, with its module.
        causes: What usually causes it.
    """
    lines = lines_of(error, parts) or [_line(component) for component in _suspects(str(error), parts)]
    return _told(f"{what}: {_ADVICE.sub('', describe(error))}", lines, causes)


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process cannot be reached."""
    return isinstance(error, torch.distributed.DistError) or any(words in str(error).lower() for words in _LOST)


def refuse_unreached(backbone: nn.Module, objectives: Sequence[Component]) -> None:
    """Refuse losses whose gradient does not reach the backbone; to be called after the first backward pass.

    Raises:
        PluginError: The backbone is to be trained, and got no gradient.
    """
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    if trained and all(parameter.grad is None for parameter in trained):
        what = "no gradient reaches the backbone, so that it is not trained"
        cause = "do not detach the rows of an objective or the input of a head, nor compute them under no_grad()"
        raise _told(what, [_line(component) for component in objectives], [cause])


def _told(what: str, lines: Iterable[str], causes: Sequence[str]) -> PluginError:
    return PluginError("\n    ".join([what, *dict.fromkeys(lines), *causes]))


def _line(component: Component) -> str:
    return f"{component.kind} '{component.id}' of {component.owner}: {location(component.cls, 'forward')}"


def lines_of(error: BaseException, parts: Iterable[Part]) -> list[str]:
    """Return the components with a line of their own in the traceback, and that line."""
    found = [(component, line) for component, _ in parts if (line := own_line(error, component.cls, "forward"))]
    return [f"{component.kind} '{component.id}' of {component.owner}: {line}" for component, line in found]


def _suspects(message: str, parts: Sequence[Part]) -> list[Component]:
    """Return the components that an error without a line may be the fault of: those of other distributions, if any."""
    if _TWICE in message and (keeping := [component for component, module in parts if _keeps_graph(module)]):
        return keeping
    if custom := _CUSTOM.search(message):
        using = [part for part, _ in parts if custom[1] in vars(sys.modules[part.cls.__module__])]
        if using:
            return using
    components = [component for component, _ in parts]
    return [component for component in components if component.owner.distribution != "sslkit"] or components


def _keeps_graph(module: nn.Module) -> bool:
    """Return whether an attribute of a module is a tensor that was computed with gradients, or holds one."""
    values = list(chain.from_iterable(vars(part).values() for part in module.modules()))
    inner = chain.from_iterable(_items(value) for value in values)
    return any(isinstance(value, Tensor) and value.grad_fn is not None for value in chain(values, inner))


def _items(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, Iterable) and not isinstance(value, (Tensor, str, bytes)) and hasattr(value, "__len__"):
        yield from value
