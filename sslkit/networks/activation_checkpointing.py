"""Activation checkpointing: a backbone keeps its blocks' inputs, and recomputes the rest in the backward pass.

Weights, gradients and running statistics stay the same; a step takes about a third more operations.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslkit.errors import UsageError
from sslkit.networks.sharding import blocks


def recompute(backbone: nn.Module) -> None:
    """Let every block of a backbone keep only its input, in place.

    Raises:
        UsageError: The backbone has no list of modules of one class, so it has no blocks.
    """
    repeated = list(blocks(backbone))
    if not repeated:
        raise UsageError(
            f"--checkpoint-activations: {type(backbone).__name__} has no repeated blocks, so nothing would be saved"
        )
    for block in repeated:
        contexts = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a block's forward pass and of its recomputation."""
    return nullcontext(), _BufferCopies(block)


class _BufferCopies:
    """A reentrant context in which a block works on copies of its buffers.

    Running statistics already include the batch when the block is recomputed.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.buffers: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        buffers = [(part, name, buffer) for part in self.block.modules() for name, buffer in part._buffers.items()]
        self.buffers = [(part, name, buffer) for part, name, buffer in buffers if buffer is not None]
        for part, name, buffer in self.buffers:
            part._buffers[name] = buffer.clone()

    def __exit__(self, *error: object) -> None:
        for part, name, buffer in self.buffers:
            part._buffers[name] = buffer
