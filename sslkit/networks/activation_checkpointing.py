"""Activation checkpointing: a backbone keeps what goes into its blocks, and makes the rest again on the way back.

Weights, gradients and running statistics are those of a run without it; a step takes about a third more operations.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslkit.errors import UsageError
from sslkit.networks.sharding import blocks


def recompute(backbone: nn.Module) -> None:
    """Let every block of a backbone keep its input alone, in place.

    Raises:
        UsageError: It has no blocks, modules of one class in one list.
    """
    found = list(blocks(backbone))
    if not found:
        raise UsageError(
            f"--checkpoint-activations: {type(backbone).__name__} has no blocks that repeat, so nothing would be saved"
        )
    for block in found:
        contexts = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds a block's pass, and the same pass made again."""
    return nullcontext(), _Copies(block)


class _Copies:
    """Lets a block work on copies of its buffers while it is entered, which it may be more than once.

    Running statistics have seen the batch when the block's pass is made again.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.held: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        places = [(part, name, held) for part in self.block.modules() for name, held in part._buffers.items()]
        self.held = [(part, name, held) for part, name, held in places if held is not None]
        for part, name, held in self.held:
            part._buffers[name] = held.clone()

    def __exit__(self, *error: object) -> None:
        for part, name, held in self.held:
            part._buffers[name] = held
