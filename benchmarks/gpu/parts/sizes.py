"""Sizes of the parts that measure: full on a GPU, tiny on a CPU, where their figures mean nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

Result = TypeVar("Result")


class Size(NamedTuple):
    """The work to measure: a backbone, the side of scene views in pixels, and images per step."""

    network: str
    side: int
    batch: int

    def __str__(self) -> str:
        return f"{self.network}, {self.side} px, batch {self.batch}"


def full() -> Size:
    """Return the size to measure on this device."""
    return Size("resnet50", 224, 512) if torch.cuda.is_available() else Size("small-resnet", 32, 4)


def largest(size: Size, attempt: Callable[[Size], Result]) -> tuple[Size, Result]:
    """Call `attempt`, and again with half the batch as long as the memory of the device does not suffice.

    Raises:
        torch.OutOfMemoryError: It does not suffice for two images either.
    """
    while True:
        try:
            return size, attempt(size)
        except torch.OutOfMemoryError:
            if size.batch < 4:
                raise
        size = size._replace(batch=size.batch // 2)
        free()  # after the exception, which holds the tensors of its frames


def free() -> None:
    """Return the memory of networks that nobody uses any more to the device."""
    gc.collect()
    torch.cuda.empty_cache()


def reduced(size: Size) -> str:
    """Return a sentence if this is less than the rehearsal asks for."""
    if not torch.cuda.is_available():
        return f"Without a GPU: {size}. The figures show that it works, and nothing else."
    return "" if size == full() else f"Memory did not suffice for a batch of {full().batch}: {size}."
