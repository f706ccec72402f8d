"""What the objectives share: views in pairs, queues that are kept, seeded draws, and losses on shapes alone."""

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
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Epochs = Annotated[float, Field(ge=0)]


def require_views(dims: Dims, *axes: str) -> None:
    """Refuse fewer than two views over these axes ("v" alone by default; an axis that is not given counts none).

    Raises:
        ValueError: There are fewer.
    """
    views = sum(dims.get(axis, 0) for axis in axes or ("v",))
    if views < 2:
        raise ValueError(f"needs two views or more, to compare one with another; got {views}")


def require_queue(dims: Dims, size: int, keys: int = 1) -> None:
    """Refuse a queue that does not hold the keys of one forward pass, `keys` of each image, where a recipe gives both.

    Raises:
        ValueError: It is shorter.
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
    """Average a loss over ordered pairs: view i of `p` against view j of `z`, both (b v d)."""
    return mean([loss(p[:, i], z[:, j]) for i, j in directions(p.shape[1], symmetric)])


def stack_pairs(p: Tensor, z: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Put ordered pairs of views under one another: both (pairs b, d)."""
    pairs = directions(p.shape[1], symmetric)
    return torch.cat([p[:, i] for i, _ in pairs]), torch.cat([z[:, j] for _, j in pairs])


def stand_in_loss(a: Tensor, b: Tensor) -> Tensor:
    """Stand in for a loss on torch's meta device, where masks and pointers cannot be read.

    It costs what most of these losses mainly do: the product of all of `a` (n d) with all of `b` (m d).
    """
    return (a @ b.transpose(-1, -2)).square().mean()


def new_queue(size: int, dim: int) -> MemoryBankModule:
    """Make a queue of random unit vectors (size dim) that a checkpoint keeps; lightly's own is left out of it."""
    bank = MemoryBankModule(size=(size, dim))
    make_persistent(bank)
    return bank


def make_persistent(bank: MemoryBankModule) -> None:
    """Let a checkpoint keep the queue and where it is being written."""
    for name in ("bank", "bank_ptr"):
        bank.register_buffer(name, getattr(bank, name), persistent=True)


def new_seed() -> Tensor:
    """Draw a seed, as a tensor for a checkpoint, from the global generator that the core seeds for a constructor."""
    return torch.randint(2**40, ())


@contextmanager
def seeded(seed: Tensor, x: Tensor) -> Iterator[None]:
    """Seed torch's global generators inside the block and put them back: the same draws on every rank.

    Args:
        seed: A scalar; it is read, which waits for the device.
        x: A tensor on the device whose generator is used; nothing is drawn on the meta device.
    """
    if x.is_meta:
        yield
        return
    devices = [] if x.device.type == "cpu" else [x.device]
    with torch.random.fork_rng(devices, device_type=x.device.type if devices else "cuda"):
        torch.manual_seed(int(seed))
        yield


def has_reached(epoch: Tensor, start: float) -> bool:
    """Say whether training has come to epoch `start`; always on the meta device, where it cannot be read."""
    return epoch.is_meta or start == 0 or float(epoch) >= start


@contextmanager
def ignore_warnings(*messages: str) -> Iterator[None]:
    """Keep warnings away that are meant for lightly's authors, by how they begin."""
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message)
        yield
