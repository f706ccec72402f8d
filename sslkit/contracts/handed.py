"""Tensors that are handed to a component and that others read, too: afterwards, they are as they were."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sslkit.contracts.blame import breach
from sslkit.plugins import Component


class Handed:
    """What tensors were before a component got them.

    Args:
        component: The component.
        tensors: Name for messages -> tensor.
        first: Whether this is a run's first step, in which copies of the values are compared, too, in the host's
            memory: some writes pass torch's counter by.
    """

    def __init__(self, component: Component, tensors: Mapping[str, Tensor], first: bool) -> None:
        self.component, self.tensors = component, tensors
        self.versions = {name: _version(tensor) for name, tensor in tensors.items()}
        self.kept = {name: _Kept(tensor) for name, tensor in tensors.items() if first}

    def refuse_changes(self) -> None:
        """Refuse what the component did to the tensors.

        Raises:
            PluginError: It wrote into one of them, or changed its gradient.
        """
        for name, tensor in self.tensors.items():
            kept = self.kept.get(name)
            what = "writes into" if _version(tensor) != self.versions[name] else kept.change() if kept else ""
            if what:
                what = f"{what} {name}, which others read, too: work on a copy, `.clone()`"
                raise breach(self.component, "forward", what)


class _Kept:
    """A tensor with a copy of what it was."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.values = None if tensor.is_meta else tensor.detach().to("cpu", copy=True)
        self.graph = self._graph()

    def change(self) -> str:
        """Return what was done to the tensor; "" if nothing was."""
        if self._graph() != self.graph:
            return "changes the gradient of"
        if self.values is None:
            return ""
        now = self.tensor.detach().cpu()
        same = (now == self.values) | (now.ne(now) & self.values.ne(self.values))  # NaN is what it was
        return "" if bool(same.all()) else "writes into"

    def _graph(self) -> tuple[bool, int]:
        """Return whether a tensor within a graph still is, and the number of its hooks."""
        return self.tensor.grad_fn is not None, len(self.tensor._backward_hooks or ())


def _version(tensor: Tensor) -> int:
    """Return how often something was written into a tensor; 0 where torch does not count."""
    return 0 if tensor.is_inference() else tensor._version
