"""The host ahead of the device: while that is busy, values are on their way back and the next batch is made ready.

A GPU works off what it was given in order. Where the host waited for a step's loss before it gave the GPU anything
more, the GPU would wait for the host in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class Reading:
    """Numbers of a device, copied to the host without waiting for what has not been computed yet.

    Args:
        numbers: Shape (n).
    """

    def __init__(self, numbers: Tensor) -> None:
        self.held, self.done = numbers, None
        if numbers.device.type == "cuda":
            self.held = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self.held.copy_(numbers, non_blocking=True)
            self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.done.record(torch.cuda.current_stream(numbers.device))

    @property
    def ready(self) -> bool:
        """Whether the device has come so far."""
        return self.done is None or bool(self.done.query())  # type: ignore[no-untyped-call]

    def numbers(self) -> list[float]:
        """Return them, once they are there."""
        if self.done is not None:
            self.done.synchronize()
        listed: list[float] = self.held.tolist()
        return listed


class Prefetcher:
    """Batches of a feed on the device, one of them begun before it is asked for.

    Args:
        feed: Gives batches.
        fetch: Takes the next of them, and puts it onto the device.
    """

    def __init__(
        self, feed: Iterator[dict[str, Any]], fetch: Callable[[Iterator[dict[str, Any]]], dict[str, Any]]
    ) -> None:
        self.feed, self.fetch = feed, fetch
        self.batch: dict[str, Any] | None = None
        self.error: Exception | None = None

    def begin(self) -> None:
        """Make the next batch ready, where there is one; what goes wrong is raised when it is asked for."""
        try:
            self.batch = self.fetch(self.feed)
        except StopIteration:
            pass
        except Exception as error:
            self.error = error

    def take(self) -> dict[str, Any]:
        """Return the batch that was begun, or the feed's next one."""
        begun, error = self.batch, self.error
        self.batch, self.error = None, None
        if error is not None:
            raise error
        return self.fetch(self.feed) if begun is None else begun
