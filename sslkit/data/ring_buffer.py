"""Room for batches of pixels that loader processes fill and the training process reads, used again and again."""

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


class RingBuffer:
    """Buffers in memory that processes share, given out in turn: what is in one is lost when its turn comes again.

    New shared memory for every batch would cost more than a tenth of the time that the batch takes to make: the system
    clears each page and finds it again in either process. Processes that are forked inherit this memory, and need no
    `/dev/shm`, which is small in many containers.

    Args:
        shapes: Of the tensors of bytes in a buffer, by name.
        places: How many buffers.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], places: int) -> None:
        self.shapes = dict(shapes)
        self.places = places
        self.memory = _shared(places * sum(map(math.prod, self.shapes.values()))).view(places, -1)
        self.number = next(_NUMBERS)
        _RINGS[self.number] = self

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        """Return the buffer of a batch: that of the one so many before it."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = torch.split(self.memory[batch % self.places], sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        return self.memory.nbytes


class Sent:
    """A batch on its way out of a loader process: it arrives as a dictionary again.

    Only where its pixels lie is sent; other tensors, which are small, go through the pipe as they are, instead of each
    in shared memory of its own.

    Args:
        ring: Has the pixels.
        number: Of the batch.
        batch: All that arrives; pixels (b v 3 s s) lie in the ring as (b v s s 3).
    """

    def __init__(self, ring: RingBuffer, number: int, batch: Mapping[str, Any]) -> None:
        self.where = (ring.number, number)
        self.count = len(batch["index"])
        self.others = {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in batch.items()
            if name not in ring.shapes
        }

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        return _received, (*self.where, self.count, self.others)


_NUMBERS = itertools.count()
_RINGS: WeakValueDictionary[int, RingBuffer] = WeakValueDictionary()


def _received(ring: int, number: int, count: int, others: Mapping[str, Any]) -> dict[str, Any]:
    pixels = {name: laid_out(part[:count]) for name, part in _RINGS[ring][number].items()}
    return pixels | {
        name: torch.from_numpy(value) if hasattr(value, "__array__") else value for name, value in others.items()
    }


def laid_out(pixels: Tensor) -> Tensor:
    """Turn views (b v s s 3) into (b v 3 s s) with the bytes of a pixel side by side."""
    return pixels.permute(0, 1, 4, 2, 3)


def _shared(count: int) -> Tensor:
    if mp.get_start_method() == "fork":
        return torch.frombuffer(mmap.mmap(-1, max(1, count)), dtype=torch.uint8)[:count]
    shared: Tensor = torch.empty(count, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    return shared
