"""The flight record of a step that was not finite: what was in hand, and everything that is needed to do it again.

diverged-step-00000123/
    record.json     terms, parameters without a finite gradient, learning rate, seeds; images and boxes of every process
    before.pt       a checkpoint: everything as it was before the step
    recipe.toml     resolved
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.networks.sharding import local
from sslkit.seeds import seed_of

RECORD, BEFORE, RECIPE = "record.json", "before.pt", "recipe.toml"
_NAMED = 50


def folder_name(step: int) -> str:
    """Return the name of a step's record in the run's folder."""
    return f"diverged-step-{step:08d}"


class Buffers:
    """The buffers of a module as they were when they were kept last: a pass changes statistics and queues."""

    def __init__(self, module: nn.Module) -> None:
        self.places = [
            (part, name) for part in module.modules() for name, held in part._buffers.items() if held is not None
        ]
        self.kept = [torch.empty_like(held) for held in self._live()]

    def _live(self) -> list[Tensor]:
        return [held for part, name in self.places if (held := part._buffers[name]) is not None]

    def keep(self) -> None:
        """Copy them."""
        live = self._live()
        if live:
            torch._foreach_copy_(self.kept, live)

    def put_back(self) -> None:
        """Write the copies back."""
        live = self._live()
        if live:
            torch._foreach_copy_(live, self.kept)


def in_hand(passes: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Return images and boxes of one process' passes, as plain values."""
    return [
        {"images": batch["index"].tolist()}
        | {name: batch[name].tolist() for name in batch if name.startswith("boxes.")}
        for batch in passes
    ]


def without_finite_gradient(network: nn.Module) -> list[str]:
    """Name the parameters whose gradient is not finite, the first few."""
    names = [name for name, held in network.named_parameters() if held.grad is not None and not _finite(held.grad)]
    return names[:_NAMED]


def seeds(seed: int, step: int, accumulate: int, world: int) -> dict[str, int]:
    """Return what the generators were seeded with: "rank.pass" -> seed; see `Stepper.passes`."""
    return {
        f"{rank}.{part}": seed_of(seed, "pass", step, part, rank) for rank in range(world) for part in range(accumulate)
    }


class FirstBad:
    """Finds the first module that makes something non-finite out of what is finite, while it is entered."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.found: str | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> FirstBad:
        for name, part in self.network.named_modules():
            if name:
                self._hooks.append(part.register_forward_hook(self._look(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _look(self, name: str) -> Any:
        def look(part: nn.Module, given: Any, made: Any) -> None:
            if self.found is None and _finite(given) and not _finite(made):
                sizes = [float(item.detach().abs().max()) for item in tensors(given) if item.numel()]
                weights = "" if _finite(list(part.parameters())) else "; its parameters are not finite"
                self.found = (
                    f"{name} ({type(part).__name__}), from inputs of at most {max(sizes, default=0.0):.4g}{weights}"
                )

        return look


def tensors(value: Any) -> Sequence[Tensor]:
    """Return the floating-point tensors of a nested value, in order."""
    if isinstance(value, Tensor):
        return [local(value)] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [item for part in value for item in tensors(part)]


def _finite(value: Any) -> bool:
    return all(bool(item.isfinite().all()) for item in tensors(value))
