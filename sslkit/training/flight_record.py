"""The flight record of a step that was not finite: its images and boxes, and everything needed to replay it.

diverged-step-00000123/
    record.json     terms, parameters without a finite gradient, learning rate, seeds; images and boxes of every rank
    before.pt       a checkpoint: the state before the step
    recipe.toml     resolved
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sslkit.errors import StorageError
from sslkit.networks.sharding import local
from sslkit.planning import toml
from sslkit.seeds import seed_of
from sslkit.storage import checkpoint, run_folder
from sslkit.storage.run_folder import RunFolder
from sslkit.training.checkpointer import Checkpointer
from sslkit.training.divergence import NonFiniteError
from sslkit.training.step import TrainStep

RECORD, BEFORE, RECIPE = "record.json", "before.pt", run_folder.RECIPE
_MOST_NAMES = 50


def write(error: NonFiniteError, train_step: TrainStep, checkpointer: Checkpointer) -> str:
    """Write the record of a step that was not taken; call it on all ranks. Return text that says where the record is.

    The state of the run is reset to what it was before the step.
    """
    fabric = train_step.setup.fabric
    record = _record(error, train_step)
    before = train_step.state.before_step()
    if not fabric.is_global_zero:
        return ""
    folder = RunFolder(checkpointer.folder.path / run_folder.diverged_name(error.step))
    try:
        checkpoint.save(folder.path / BEFORE, {**before, **checkpointer.about()})
        folder.write_text(RECIPE, toml.dumps(train_step.setup.plan.resolved()))
        folder.write(RECORD, record)
    except StorageError as failure:
        return f"No record was written: {failure}"
    return f"`sslkit verify replay {folder.path}` replays it"


def _record(error: NonFiniteError, train_step: TrainStep) -> dict[str, Any]:
    """Return the contents of `record.json`, gathered from all ranks."""
    setup, recipe, fabric = train_step.setup, train_step.recipe, train_step.setup.fabric
    local = (_plain(error.batches), parameters_without_finite_gradient(train_step.network))
    batches, parameters = zip(*(fabric.broadcast(local, src=rank) for rank in range(fabric.world_size)), strict=True)
    for batch in (batch for of_rank in batches for batch in of_rank):
        batch["keys"] = [setup.source.key(index) for index in batch["images"]]
    return {
        "step": error.step, "terms": {name: repr(value) for name, value in error.terms.items()},
        "without_finite_gradient": list(dict.fromkeys(name for names in parameters for name in names)),
        "lr": error.lr, "target_momentum": train_step.momentum(), "processes": fabric.world_size,
        "device": str(fabric.device),
        "seeds": seeds(recipe.seed, error.step - 1, recipe.accumulate, fabric.world_size), "in_hand": list(batches),
    }  # fmt: skip


def _plain(batches: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Return images and boxes of micro-batches as plain values."""
    return [
        {"images": batch["index"].tolist()}
        | {name: batch[name].tolist() for name in batch if name.startswith("boxes.")}
        for batch in batches
    ]


def parameters_without_finite_gradient(network: nn.Module) -> list[str]:
    """Name the first few parameters whose gradient is not finite."""
    named = network.named_parameters()
    return [name for name, one in named if one.grad is not None and not _finite(one.grad)][:_MOST_NAMES]


def seeds(seed: int, step: int, accumulate: int, world_size: int) -> dict[str, int]:
    """Return the seed of each rank's micro-batches: "rank.micro-batch" -> seed; see `TrainStep.accumulate`."""
    return {
        f"{rank}.{part}": seed_of(seed, "pass", step, part, rank)
        for rank in range(world_size)
        for part in range(accumulate)
    }


class FirstNonFinite:
    """Find the first module that turns finite inputs into a non-finite output, inside the block.

    Attributes:
        module: The module's name and type, its largest input value, and whether its parameters are finite; or None.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.module: str | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> FirstNonFinite:
        for name, part in self.network.named_modules():
            if name:
                self._hooks.append(part.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Any:
        def look(part: nn.Module, inputs: Any, output: Any) -> None:
            if self.module is None and _finite(inputs) and not _finite(output):
                sizes = [float(item.detach().abs().max()) for item in tensors(inputs) if item.numel()]
                weights = "" if _finite(list(part.parameters())) else "; its parameters are not finite"
                self.module = (
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
