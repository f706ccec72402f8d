"""A pass forward and backward as one CUDA graph: recorded once, then begun by one call instead of thousands.

Where a step is small, a GPU waits for the host, which gives it one operation after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sslkit.errors import UsageError
from sslkit.networks.step_module import Network, StepModule, StepOutput
from sslkit.planning.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

QUIET = 3
"""Passes without a change that go before a recording: libraries choose their algorithms in them."""
PATIENCE = 20
"""Passes behind one another that are not recorded, until it is said why."""
_OF_TORCH = frozenset(vars(nn.Module())) - {"training"}


class StepGraph:
    """Makes passes as `run` makes them, with the same numbers; from the fourth on by a graph.

    A graph works on the memory that it was recorded with, and repeats what Python decided then. So each batch is copied
    to that memory; and what objectives and heads hold besides numbers in tensors is looked at before every pass, what
    backbones hold before the recording. Where that has changed, the next passes are plain, and it is recorded anew.

    Args:
        run: Goes forward and backward on a batch, which leaves gradients, and returns the outcome.
        network: What is run.
    """

    def __init__(self, run: Callable[[Mapping[str, Any]], StepOutput], network: StepModule) -> None:
        self.run, self.network = run, network
        named = dict(network.named_modules())
        inside = {id(part) for net in (network.online, network.target) if net for part in _of_backbone(net)}
        self.backbones = {name: part for name, part in named.items() if id(part) in inside}
        self.others = {name: part for name, part in named.items() if id(part) not in inside}
        self.known: dict[str, dict[str, Any]] = {}
        self.quiet = self.plain = 0
        self._forget()

    def _forget(self) -> None:
        self.graph: Any = None
        self.batch: dict[str, Tensor] = {}
        self.gradients: list[tuple[nn.Parameter, Tensor]] = []
        self.outcome: StepOutput | None = None

    def __call__(self, batch: Mapping[str, Any]) -> StepOutput:
        """Go forward and backward; what is returned holds until the next call.

        Raises:
            UsageError: The pass cannot be recorded, or changes too often.
        """
        if changed := self._changed(batch):
            self._forget()
            self.quiet = 0
            if self.plain >= PATIENCE:
                raise UsageError(f"--cuda-graph: {changed[0]} changes again and again, which no graph can follow")
        if self.quiet < QUIET:
            self.quiet, self.plain = self.quiet + 1, self.plain + 1
            return self.run(batch)
        if self.graph is None:
            self._record(batch)
        for name, held in self.batch.items():
            held.copy_(batch[name], non_blocking=True)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        assert self.outcome is not None
        return self.outcome

    def _changed(self, batch: Mapping[str, Any]) -> list[str]:
        """Name what would make a pass another one than the last, on whatever numbers."""
        shapes = {f"batch.{name}": value.shape for name, value in batch.items() if isinstance(value, Tensor)}
        looked_at = {"others": shapes | _held(self.others)}
        if self.graph is None:
            looked_at["backbones"] = _held(self.backbones)
        changed = [name for what, now in looked_at.items() for name in _differing(self.known.get(what, {}), now)]
        self.known |= looked_at
        return changed

    def _record(self, batch: Mapping[str, Any]) -> None:
        self.batch = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
        made = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(made, capture_error_mode="thread_local"):  # loaders' threads go on
                self.outcome = self.run({**batch, **self.batch})
        except Exception as error:
            cause = error.__context__ or error  # ending what has failed fails again
            raise UsageError(
                f"--cuda-graph: this recipe's step cannot be recorded: {str(cause).strip().splitlines()[0]}. "
                "Something in it waits for the GPU; leave the option out"
            ) from error
        held = ((parameter, parameter.grad) for parameter in self.network.parameters())
        self.gradients = [(parameter, gradient) for parameter, gradient in held if gradient is not None]
        self.graph, self.plain = made, 0


def check(recipe: Recipe, precision: str, fabric: Fabric) -> None:
    """Refuse what steps are not recorded of.

    Raises:
        UsageError: It takes one process with a GPU, one pass a step, and no scaled losses.
    """
    not_so = {
        f"takes a GPU, and this run is on the {fabric.device.type}": fabric.device.type != "cuda",
        f"takes one process, and this run has {fabric.world_size}": fabric.world_size > 1,
        f"takes one pass a step, and accumulate = {recipe.accumulate}": recipe.accumulate > 1,
        f'takes precision = "bf16-mixed" or "32-true", not "{precision}"': precision == "16-mixed",
    }
    if told := [told for told, holds in not_so.items() if holds]:
        raise UsageError("--cuda-graph " + "; it ".join(told))


# ------------------------------------------------------------------------------------- what Python decides by

_NOTHING = object()


def _of_backbone(network: Network) -> Iterable[nn.Module]:
    return network.backbone.modules()


def _held(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return what modules hold: which tensors, not what numbers, and everything that is no tensor."""
    held: dict[str, Any] = {}
    for path, module in modules.items():
        tensors = {**module._parameters, **module._buffers}
        held |= {f"{path}.{name}": (one, one is not None and one.requires_grad) for name, one in tensors.items()}
        others = {f"{path}.{name}": value for name, value in vars(module).items() if name not in _OF_TORCH}
        held |= {name: list(value) if isinstance(value, list) else value for name, value in others.items()}
    return held


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in {**a, **b} if not _same(a.get(name, _NOTHING), b.get(name, _NOTHING))]


def _same(a: Any, b: Any) -> bool:
    """Say whether two values are equal, tensors and what else may not be compared only where they are one."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, (bool, int, float, str, bytes)) and a == b
