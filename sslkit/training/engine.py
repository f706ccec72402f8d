"""Run forward, backward and the optimizer: through Fabric's wrappers, or without them on a single device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sslkit.networks import sharding
from sslkit.networks.step_module import StepOutput
from sslkit.training.fused_step import FusedStep
from sslkit.training.setup import Setup


class Engine:
    """Forward pass, backward pass, gradients and the optimizer of a run.

    On a single device, Fabric's wrappers would look at every tensor and change nothing, so they are left out.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.fabric, self.network = setup, setup.fabric, setup.network
        self.direct = setup.needs_no_wrappers
        self.is_sharded = setup.is_sharded
        self.fused_step = FusedStep(setup.optimizer.optimizer)
        self.trained = [parameter for parameter in setup.network.parameters() if parameter.requires_grad]

    def forward(self, batch: Mapping[str, Any], measure: bool, first: bool) -> StepOutput:
        """Run the networks and objectives on a micro-batch; arguments as in `StepModule.forward`."""
        if not self.direct:
            return self.setup.module(batch, measure=measure, first=first)  # type: ignore[no-any-return]
        with self.fabric.autocast():
            return self.network(batch, measure, first)  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        if self.direct:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.fabric.backward(loss)

    def without_sync(self, when: bool) -> AbstractContextManager[None]:
        """Keep gradients local to each rank inside the block, `when` a later micro-batch of the step will sync them."""
        return self.fabric.no_backward_sync(self.setup.module) if when else nullcontext()

    def gradient_norm(self) -> Tensor:
        """Return the norm of all gradients together, a scalar."""
        grads = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        if self.is_sharded:
            grads = [*map(sharding.local, grads)]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if not self.is_sharded:
            return norm
        total = self.fabric.all_reduce(norm.float().square(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.sqrt()

    def clip_gradients(self) -> None:
        """Scale the gradients down if the recipe bounds their norm."""
        limit = self.setup.recipe.optimizer.clip_grad_norm
        if limit is not None:
            self.fabric.clip_gradients(
                self.setup.module, self.setup.optimizer, max_norm=limit, error_if_nonfinite=False
            )

    def optimizer_step(self) -> None:
        """Update the online network."""
        if self.direct:
            self.fused_step()
        else:
            self.setup.optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients of this step."""
        for parameter in self.trained:
            parameter.grad = None
