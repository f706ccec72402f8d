"""Run the forward and backward pass of a micro-batch as one CUDA graph, which one call starts instead of thousands.

In small steps, the GPU waits for the host, which launches one operation after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sslkit.errors import UsageError
from sslkit.networks.step_module import StepModule, StepOutput
from sslkit.planning.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WARM_UP = 3
"""Unchanged micro-batches before a recording, in which libraries choose their algorithms."""
PATIENCE = 20
"""Micro-batches in a row without a recording, after which an error names what changes."""
_OF_TORCH = frozenset(vars(nn.Module())) - {"training"}


class StepGraph:
    """Run micro-batches like `run`, with the same numbers, but from the fourth on by replaying a graph.

    A graph works on the memory that it was recorded with, and repeats Python's decisions at that time. Each batch is
    therefore copied to that memory. The state of objectives and heads, apart from numbers in tensors, is compared
    before every replay; that of backbones only before the recording. After a change, micro-batches run without a graph
    until a new one is recorded.

    Args:
        run: Runs a batch forward and backward, which leaves gradients, and returns the output.
        network: The module that `run` runs.
    """

    def __init__(self, run: Callable[[Mapping[str, Any]], StepOutput], network: StepModule) -> None:
        self.run, self.network = run, network
        modules = dict(network.named_modules())
        networks = [net for net in (network.online, network.target) if net]
        in_backbones = {id(module) for net in networks for module in net.backbone.modules()}
        self.backbones = {name: module for name, module in modules.items() if id(module) in in_backbones}
        self.others = {name: module for name, module in modules.items() if id(module) not in in_backbones}
        self.known: dict[str, dict[str, Any]] = {}
        self.unchanged = self.unrecorded = 0
        self._forget()

    def _forget(self) -> None:
        self.graph: Any = None
        self.batch: dict[str, Tensor] = {}
        self.gradients: list[tuple[nn.Parameter, Tensor]] = []
        self.output: StepOutput | None = None

    def __call__(self, batch: Mapping[str, Any]) -> StepOutput:
        """Run a batch forward and backward; the returned tensors are valid until the next call.

        Raises:
            UsageError: The step cannot be recorded, or changes too often.
        """
        if changed := self._changed(batch):
            self._forget()
            self.unchanged = 0
            if self.unrecorded >= PATIENCE:
                raise UsageError(f"--cuda-graph: {changed[0]} keeps changing, which a graph cannot follow")
        if self.unchanged < WARM_UP:
            self.unchanged, self.unrecorded = self.unchanged + 1, self.unrecorded + 1
            return self.run(batch)
        if self.graph is None:
            self._record(batch)
        for name, value in self.batch.items():
            value.copy_(batch[name], non_blocking=True)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        assert self.output is not None
        return self.output

    def _changed(self, batch: Mapping[str, Any]) -> list[str]:
        """Name the state and shapes that have changed since the last batch, apart from numbers in tensors."""
        shapes = {f"batch.{name}": value.shape for name, value in batch.items() if isinstance(value, Tensor)}
        states = {"others": shapes | _state(self.others)}
        if self.graph is None:
            states["backbones"] = _state(self.backbones)
        changed = [name for part, state in states.items() for name in _differences(self.known.get(part, {}), state)]
        self.known |= states
        return changed

    def _record(self, batch: Mapping[str, Any]) -> None:
        self.batch = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # loader threads continue
                self.output = self.run({**batch, **self.batch})
        except Exception as error:
            cause = error.__context__ or error  # ending a failed capture fails again
            raise UsageError(
                f"--cuda-graph: this recipe's step cannot be recorded: {str(cause).strip().splitlines()[0]}. "
                "Something in it waits for the GPU; leave the option out"
            ) from error
        pairs = ((parameter, parameter.grad) for parameter in self.network.parameters())
        self.gradients = [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]
        self.graph, self.unrecorded = graph, 0


def check(recipe: Recipe, precision: str, fabric: Fabric) -> None:
    """Refuse runs whose steps cannot be recorded.

    Raises:
        UsageError: The run is not on one GPU, has several micro-batches per step, or scales its losses.
    """
    obstacles = {
        f"needs a GPU, and this run is on the {fabric.device.type}": fabric.device.type != "cuda",
        f"needs a single rank, and this run has {fabric.world_size}": fabric.world_size > 1,
        f"needs one micro-batch per step, and accumulate = {recipe.accumulate}": recipe.accumulate > 1,
        f'needs precision = "bf16-mixed" or "32-true", not "{precision}"': precision == "16-mixed",
    }
    if reasons := [reason for reason, applies in obstacles.items() if applies]:
        raise UsageError("--cuda-graph " + "; it ".join(reasons))


# ------------------------------------------------------------------------------- the state that Python code reads

_ABSENT = object()


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return the state of modules: the identity of tensors without their numbers, and every other value."""
    state: dict[str, Any] = {}
    for path, module in modules.items():
        tensors = {**module._parameters, **module._buffers}
        for name, tensor in tensors.items():
            state[f"{path}.{name}"] = (tensor, tensor is not None and tensor.requires_grad)
        for name, value in vars(module).items():
            if name not in _OF_TORCH:
                state[f"{path}.{name}"] = list(value) if isinstance(value, list) else value
    return state


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in {**a, **b} if not _same(a.get(name, _ABSENT), b.get(name, _ABSENT))]


def _same(a: Any, b: Any) -> bool:
    """Return whether two values are equal; those without a safe comparison, like tensors, must be the same object."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, (bool, int, float, str, bytes)) and a == b
