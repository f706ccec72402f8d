"""Reused buffers for batches of pixels, which loader processes fill and the training process reads."""

from __future__ import annotations

import itertools
import math
import mmap
import multiprocessing as mp
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from sslkit.folders import processes


class RingBuffer:
    """Buffers in shared memory, used in turn: the content of one is overwritten when its turn comes again.

    New shared memory for every batch would cost more than a tenth of the time of making the batch: the system clears
    each page and maps it again in either process. Forked processes inherit this memory without `/dev/shm`, which is
    small in many containers.

    Args:
        shapes: Name -> shape of a tensor of bytes in each buffer.
        slots: Number of buffers.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], slots: int) -> None:
        self.shapes = dict(shapes)
        self.slots = slots
        self.memory = shared_bytes(slots * sum(map(math.prod, self.shapes.values()))).view(slots, -1)
        self.number = next(_NUMBERS)
        _RINGS[self.number] = self

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        """Return the buffer of a batch: batch `n` shares the buffer of batch `n - slots`."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = torch.split(self.memory[batch % self.slots], sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return self.memory.nbytes


class BatchMessage:
    """A message that carries a batch out of a loader process, and unpickles as a dictionary.

    Only the position of the pixels is sent. Other tensors are small and go through the pipe, instead of each in
    separate shared memory.

    Args:
        ring: The buffers with the pixels.
        number: Number of the batch.
        batch: The whole batch; its pixels (b v 3 s s) are in the ring as (b v s s 3).
    """

    def __init__(self, ring: RingBuffer, number: int, batch: Mapping[str, Any]) -> None:
        self.position = (ring.number, number)
        self.count = len(batch["index"])
        self.others = {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in batch.items()
            if name not in ring.shapes
        }

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        return _receive, (*self.position, self.count, self.others)


_NUMBERS = itertools.count()
_RINGS: WeakValueDictionary[int, RingBuffer] = WeakValueDictionary()


def _receive(ring: int, number: int, count: int, others: Mapping[str, Any]) -> dict[str, Any]:
    pixels = {name: as_channels_last(part[:count]) for name, part in _RINGS[ring][number].items()}
    return pixels | {
        name: torch.from_numpy(value) if hasattr(value, "__array__") else value for name, value in others.items()
    }


def as_channels_last(pixels: Tensor) -> Tensor:
    """View pixels (b v s s 3) as (b v 3 s s), without moving the bytes in memory."""
    return pixels.permute(0, 1, 4, 2, 3)


def shared_bytes(count: int) -> Tensor:
    """Return bytes that loader processes share with this one, in memory that needs `/dev/shm` only where they must."""
    if mp.get_start_method() == "fork":
        return torch.frombuffer(mmap.mmap(-1, max(1, count)), dtype=torch.uint8)[:count]
    memory = torch.empty(count, dtype=torch.uint8)
    return memory.share_memory_() if processes(1) else memory  # type: ignore[no-untyped-call]
