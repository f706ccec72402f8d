"""The state of networks and objectives in checkpoints: it can be saved, and a run that resumes has places for it."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.contracts.arrays import named
from sslkit.contracts.backward import failure_by_lines
from sslkit.contracts.blame import breach
from sslkit.errors import PluginError
from sslkit.networks import StepModule
from sslkit.plugins import Component
from sslkit.storage.checkpoint import refuse_code

_MOST = 10
"""Parameters and buffers of a component that a message names."""
_EXTRA = "_extra_state"


class KeptState:
    """The parameters, buffers and extra state of the networks and objectives.

    Args:
        network: The networks and objectives, as they were built.
    """

    def __init__(self, network: StepModule) -> None:
        self.network = network
        self.shapes = dict(_shapes(network))
        components = {id(module): component for component, module in network.parts}
        modules = network.named_modules(remove_duplicate=False)
        self.components = {path: components[id(module)] for path, module in modules if id(module) in components}
        self.is_tried = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state.

        Raises:
            PluginError: A component's state fails, cannot be saved, or is not what was registered when it was built.
        """
        self.refuse_changes()
        try:
            state = self.network.state_dict()
        except Exception as error:
            raise self._failure("saved", error) from error
        for name, value in state.items():
            self._refuse_unsavable(name, value)
        return state

    def try_restoring(self) -> None:
        """Restore the state from itself, as a run does that resumes; once, after the first step.

        Raises:
            PluginError: A component's state cannot be saved or restored.
        """
        if self.is_tried:
            return
        self.is_tried = True
        state = self.state_dict()
        extra = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
        file = io.BytesIO()
        torch.save(extra, file)
        file.seek(0)
        try:
            self.network.load_state_dict({**state, **torch.load(file, weights_only=True)})
        except Exception as error:
            raise self._failure("restored", error) from error

    def refuse_changes(self) -> None:
        """Refuse parameters and buffers that came, went or changed their shape after the networks were built.

        Raises:
            PluginError: There are some.
        """
        now = dict(_shapes(self.network))
        if now == self.shapes:
            return
        faults: dict[Component, dict[str, None]] = defaultdict(dict)
        for name in [name for name in {**self.shapes, **now} if self.shapes.get(name) != now.get(name)]:
            component, inner = self._owner(name)
            faults[component][_change(inner, self.shapes.get(name), now.get(name))] = None
        raise PluginError("\n".join(str(_breach(component, list(changes))) for component, changes in faults.items()))

    def _refuse_unsavable(self, name: str, value: Any) -> None:
        component, inner = self._owner(name)
        is_tensor = isinstance(value, Tensor)
        if component.kind == "backbone" and not is_tensor:
            what = f"returned {named(value)}: a backbone is saved as tensors alone, so register buffers instead"
            raise breach(component, "get_extra_state", what)
        try:
            refuse_code(None if is_tensor else value, "what it returned")
        except TypeError as error:
            method = "get_extra_state" if inner.endswith(_EXTRA) else "state_dict"
            raise breach(component, method, f"returned {named(value)}: {error}") from error

    def _owner(self, name: str) -> tuple[Component, str]:
        """Return the component that an entry of the state belongs to, and its name in it; the target is a copy."""
        online = f"online.{name.removeprefix('target.')}" if name.startswith("target.") else name
        path = max((path for path in self.components if online.startswith(f"{path}.")), key=len)
        return self.components[path], online.removeprefix(f"{path}.")

    def _failure(self, what: str, error: Exception) -> PluginError:
        cause = "what get_extra_state() returns, set_extra_state() takes; and load_state_dict() takes its state_dict()"
        named_ones = {component for path, component in self.components.items() if f"{path}." in str(error)}
        parts = [part for part in self.network.parts if part[0] in named_ones] or self.network.parts
        return failure_by_lines(f"the state cannot be {what}", error, parts, [cause])


def _shapes(network: nn.Module) -> Iterator[tuple[str, torch.Size]]:
    """Yield the name and shape of everything that a state dict holds besides extra state."""
    for path, module in network.named_modules(remove_duplicate=False):
        kept = {
            name: value for name, value in module._buffers.items() if name not in module._non_persistent_buffers_set
        }
        for name, value in {**module._parameters, **kept}.items():
            if value is not None:
                yield f"{path}.{name}", value.shape


def _change(name: str, before: torch.Size | None, now: torch.Size | None) -> str:
    if before is None:
        return f"'{name}' of shape {tuple(now or ())}, which came later"
    return f"'{name}' of shape {tuple(before)}, which now " + ("is gone" if now is None else f"has shape {tuple(now)}")


def _breach(component: Component, changes: list[str]) -> PluginError:
    more = f" and {len(changes) - _MOST} more" if len(changes) > _MOST else ""
    what = f"does not register all parameters and buffers as they stay: {', '.join(changes[:_MOST])}{more}"
    return breach(component, "__init__", f"{what}. A run could not resume: register them there, in their final shape")
