"""Keep the host ahead of the device: copy numbers back and prepare the next batch while the device is busy.

A GPU runs the operations that the host launches in order. If the host waited for a step's loss before it launched
more, the GPU would wait for the host in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class Reading:
    """Numbers on a device, copied to the host without waiting until they are computed.

    Args:
        numbers: Shape (n).
    """

    def __init__(self, numbers: Tensor) -> None:
        self.values, self.event = numbers, None
        if numbers.device.type == "cuda":
            self.values = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self.values.copy_(numbers, non_blocking=True)
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.event.record(torch.cuda.current_stream(numbers.device))

    @property
    def ready(self) -> bool:
        """Whether the numbers have been computed and copied."""
        return self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call]

    def numbers(self) -> list[float]:
        """Wait for the numbers and return them."""
        if self.event is not None:
            self.event.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers


class Prefetcher:
    """Batches on the device, the next one started before it is requested.

    Args:
        batches: Batches on the host.
        fetch: Takes the next batch and moves it to the device.
    """

    def __init__(
        self, batches: Iterator[dict[str, Any]], fetch: Callable[[Iterator[dict[str, Any]]], dict[str, Any]]
    ) -> None:
        self.batches, self.fetch = batches, fetch
        self.batch: dict[str, Any] | None = None
        self.error: Exception | None = None

    def start(self) -> None:
        """Fetch the next batch, if there is one; `take` raises its errors."""
        try:
            self.batch = self.fetch(self.batches)
        except StopIteration:
            pass
        except Exception as error:
            self.error = error

    def take(self) -> dict[str, Any]:
        """Return the batch that was started, or fetch the next one."""
        started, error = self.batch, self.error
        self.batch, self.error = None, None
        if error is not None:
            raise error
        return self.fetch(self.batches) if started is None else started
