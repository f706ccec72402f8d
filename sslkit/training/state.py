"""The state of a run: everything that its next step depends on, in one place.

Random generators are not part of it: they are functions of the recipe's seed, the epoch, the step and the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sslkit.data.bad_images import BadImages
from sslkit.networks import sharding
from sslkit.networks.monitors import Monitors
from sslkit.training.collapse import CollapseDetector
from sslkit.training.early_verdict import EarlyVerdict
from sslkit.training.kept_state import KeptState
from sslkit.training.setup import Setup, learning_traits, recipe_traits


class Stateful(Protocol):
    """A piece of state that can be saved and restored."""

    def state_dict(self) -> Any:
        """Return tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Restore them."""


class SamplerCounts:
    """The sampler's counts, averaged over the epoch so far.

    Attributes:
        means: Name -> mean.
    """

    def __init__(self) -> None:
        self.means: dict[str, float] = {}

    def add(self, counts: Mapping[str, float], place: int) -> None:
        """Add the counts of a micro-batch; `place` is its step in the epoch, from 0, where averages start afresh."""
        if place == 0:
            self.means = {}
        for name, value in counts.items():
            before = self.means.get(name, value)
            self.means[name] = before + (value - before) / (place + 1)

    def state_dict(self) -> dict[str, float]:
        """Return the means."""
        return dict(self.means)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the means."""
        self.means = dict(state)


class BufferSnapshot:
    """A copy of the buffers that are saved and that forward passes change: statistics of batch norm, and queues."""

    def __init__(self, module: nn.Module) -> None:
        self.places = [
            (part, name) for part in module.modules() for name, value in part._buffers.items()
            if value is not None and name not in part._non_persistent_buffers_set
        ]  # fmt: skip
        self.copies = [torch.empty_like(value) for value in self._live()]
        self.shapes = [value.shape for value in self.copies]

    def _live(self) -> list[Tensor]:
        return [value for part, name in self.places if (value := part._buffers.get(name)) is not None]

    def copy(self) -> bool:
        """Copy the buffers; return whether they still are those of the beginning."""
        live = self._live()
        if [value.shape for value in live] != self.shapes:
            return False
        if live:
            torch._foreach_copy_(self.copies, live)
        return True

    def restore(self) -> None:
        """Write the copies back."""
        live = self._live()
        if live:
            torch._foreach_copy_(live, self.copies)


class TrainState:
    """Save and restore the state of a run.

    A new piece of state is added in `pieces` alone, under the name that it has in a checkpoint.

    Attributes:
        step: Optimizer steps done.
        bad: Images that were skipped.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.step = 0
        self.counts = SamplerCounts()
        recipe = setup.recipe
        self.bad = BadImages(len(setup.source), recipe.max_bad_images, recipe.max_bad_share)
        self.monitors = Monitors(
            setup.options.monitor_every, has_full_parameters=not setup.is_sharded, device=setup.device
        )
        self.collapse = CollapseDetector(recipe_traits(setup))
        self.verdict = EarlyVerdict(learning_traits(setup), setup.steps * recipe.batch_size)
        self.kept = KeptState(setup.network)
        self._buffers = BufferSnapshot(setup.network)
        self._counts_before = self.counts.state_dict()

    @property
    def pieces(self) -> dict[str, Stateful]:
        """Everything besides the step, the networks and the optimizer."""
        return {
            "precision": self.setup.fabric.strategy.precision,  # the loss scale of 16-mixed
            "counts": self.counts,
            "bad_images": self.bad,
            "skipped": self.setup.epochs,
            "windows": self.monitors,
            "sentinel": self.collapse,
            "online_probes": self.verdict,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state, to be called on all ranks; networks and optimizer are whole on rank 0.

        Raises:
            PluginError: The state of a component cannot be saved, or has changed its names or shapes.
        """
        pieces = {name: piece.state_dict() for name, piece in self.pieces.items()}
        return {**self._trained(), "step": self.step, **pieces}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state; pieces that an older checkpoint does not have are left unchanged.

        Raises:
            Exception: An exception of any type, if the state is of other networks, optimizers or versions.
        """
        self.setup.network.load_state_dict(sharding.shard_model_state(state["model"], self.setup.network))
        self._load_optimizer(state["optimizer"])
        self.step = state["step"]
        for name, piece in self.pieces.items():
            if name in state:
                piece.load_state_dict(state[name])

    def _trained(self) -> dict[str, Any]:
        """Return the state of networks and optimizer, whole on rank 0."""
        optimizer = self.setup.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group.pop("fused", None)  # belongs to the machine, not to the run
        state = {"model": self.kept.state_dict(), "optimizer": optimizer}
        return sharding.gather_to_cpu(state, self.setup.fabric.is_global_zero) if self.setup.is_sharded else state

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        groups = self.setup.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        restored = sharding.shard_optimizer_state(state, parameters)
        restored["param_groups"] = [
            {**saved, **({"fused": group["fused"]} if "fused" in group else {})}
            for saved, group in zip(restored["param_groups"], groups, strict=True)
        ]
        self.setup.optimizer.load_state_dict(restored)

    # ------------------------------------------------------------------------------------------ undoing a step

    def snapshot(self) -> None:
        """Copy what forward passes change: the buffers of the networks, and the sampler's counts.

        Raises:
            PluginError: A buffer is gone, or has another shape.
        """
        if not self._buffers.copy():
            self.kept.refuse_changes()
        self._counts_before = self.counts.state_dict()

    def before_step(self) -> dict[str, Any]:
        """Return the state as it was at the snapshot, to be called on all ranks; restore the buffers.

        For a step whose optimizer step was not taken.
        """
        self._buffers.restore()
        return {**self.state_dict(), "counts": self._counts_before}
