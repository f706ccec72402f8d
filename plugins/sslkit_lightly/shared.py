"""Shared parts of the objectives: pairs of views, queues in checkpoints, seeded draws, meta-device losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, permutations
from typing import Annotated

import torch
from lightly.models.modules.memory_bank import MemoryBankModule
from pydantic import Field
from torch import Tensor

from sslkit.api import Dims

PairLoss = Callable[[Tensor, Tensor], Tensor]
"""A loss on two views, both (b d)."""
Temperature = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Epochs = Annotated[float, Field(ge=0)]
Steps = Annotated[int | None, Field(ge=0, le=1_000_000_000)]


def require_views(dims: Dims, *axes: str) -> None:
    """Check that these axes ("v" alone by default) have two views or more in total; missing axes count as zero.

    Raises:
        ValueError: There are fewer than two views.
    """
    views = sum(dims.get(axis, 0) for axis in axes or ("v",))
    if views < 2:
        raise ValueError(f"needs two views or more, to compare one with another; got {views}")


def require_queue(dims: Dims, size: int, keys: int = 1) -> None:
    """Check that a queue of `size` holds the keys of one forward pass, `keys` per image, if the batch size is known.

    Raises:
        ValueError: The queue is shorter.
    """
    if size < keys * dims.get("b", 0):
        raise ValueError(f"queue = {size} is shorter than the {keys * dims['b']} keys of one forward pass")


def mean(losses: Sequence[Tensor]) -> Tensor:
    """Return the mean of scalars."""
    return torch.stack(list(losses)).mean()


def mean_over_pairs(loss: PairLoss, z: Tensor) -> Tensor:
    """Average a symmetric loss over the unordered pairs of different views of `z` (b v d)."""
    return mean([loss(a, b) for a, b in combinations(z.unbind(1), 2)])


def directions(v: int, symmetric: bool = True) -> list[tuple[int, int]]:
    """Return the ordered pairs of different views; only those from the first view when not `symmetric`."""
    return [pair for pair in permutations(range(v), 2) if symmetric or pair[0] == 0]


def mean_over_directions(loss: PairLoss, p: Tensor, z: Tensor, symmetric: bool = True) -> Tensor:
    """Average a loss over ordered pairs of views: view i of `p` and view j of `z`, both (b v d)."""
    return mean([loss(p[:, i], z[:, j]) for i, j in directions(p.shape[1], symmetric)])


def stack_pairs(p: Tensor, z: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Concatenate the ordered pairs of views along the batch: both (pairs b, d)."""
    pairs = directions(p.shape[1], symmetric)
    return torch.cat([p[:, i] for i, _ in pairs]), torch.cat([z[:, j] for _, j in pairs])


def stand_in_loss(a: Tensor, b: Tensor) -> Tensor:
    """Replace a loss on torch's meta device, where masks and pointers cannot be read.

    The replacement has the main cost of most of these losses: the product of all of `a` (n d) with all of `b` (m d).
    """
    return (a @ b.transpose(-1, -2)).square().mean()


def new_queue(size: int, dim: int) -> MemoryBankModule:
    """Create a queue of random unit vectors (size dim) that checkpoints include, unlike lightly's own."""
    bank = MemoryBankModule(size=(size, dim))
    make_persistent(bank)
    return bank


def make_persistent(bank: MemoryBankModule) -> None:
    """Include the queue and its write position in checkpoints."""
    for name in ("bank", "bank_ptr"):
        bank.register_buffer(name, getattr(bank, name), persistent=True)


def new_seed() -> Tensor:
    """Draw a seed from the global generator, which the core seeds for a constructor; checkpoints include the tensor."""
    return torch.randint(2**40, ())


@contextmanager
def seeded(seed: Tensor, x: Tensor) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them: the same draws on every rank.

    Args:
        seed: A scalar; reading it waits for the device.
        x: A tensor on the device whose generator is used; on the meta device nothing is seeded.
    """
    if x.is_meta:
        yield
        return
    devices = [] if x.device.type == "cpu" else [x.device]
    with torch.random.fork_rng(devices, device_type=x.device.type if devices else "cuda"):
        torch.manual_seed(int(seed))
        yield


def is_frozen(epoch: Tensor, epochs: float, step: Tensor | None, steps: int | None) -> Tensor:
    """Return whether weights that are frozen at the start still are, a scalar; with `steps`, `epochs` is not read."""
    return epoch < epochs if step is None or steps is None else step < steps


def has_reached(done: Tensor, start: float) -> bool:
    """Return whether training has reached an epoch or a step; True on the meta device, where `done` cannot be read."""
    return done.is_meta or start == 0 or float(done) >= start


@contextmanager
def ignore_warnings(*messages: str) -> Iterator[None]:
    """Ignore warnings that are meant for lightly's authors, selected by their first words."""
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message)
        yield
