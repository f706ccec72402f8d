"""Communication between ranks: rows and means inside a step, signals and bad images before the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslkit.data.bad_images import BadImage, BadImages
from sslkit.data.prefetch import Reading
from sslkit.errors import DataError
from sslkit.training.interrupt import Interrupt

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_same_images(fabric: Fabric, listing: Mapping[str, Any]) -> None:
    """Refuse ranks whose images differ from rank 0's, as on machines with separate folders.

    Raises:
        DataError: The images differ.
    """
    first = fabric.broadcast(listing)
    if first != listing:
        raise DataError(
            f"rank {fabric.global_rank} sees other images than rank 0: {listing['images']} and "
            f"{first['images']}; all machines must see the same files"
        )


def gather(fabric: Fabric, rows: Tensor) -> Tensor:
    """Concatenate rows (b ...) of all ranks in order of rank; gradients are summed in the backward pass."""
    joined = fabric.all_gather(rows, sync_grads=True)
    assert isinstance(joined, Tensor)
    if joined.requires_grad:  # over gloo, parts of a gradient that is not contiguous would be mixed up
        joined.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return joined.flatten(0, 1)


def mean(fabric: Fabric, values: Tensor) -> Tensor:
    """Average values over all ranks."""
    averaged = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(averaged, Tensor)
    return averaged


class Agreement:
    """Average a step's values over ranks, and let all ranks know of a signal to stop and of bad images.

    Args:
        fabric: The Fabric that joins the ranks.
        interrupt: Whether this rank, or any, was asked to stop.
        bad: Images that the run has skipped, extended by those of all ranks.

    Attributes:
        news: Messages about images that could not be used, since they were last taken; None if `bad` is unchanged.
    """

    def __init__(self, fabric: Fabric, interrupt: Interrupt, bad: BadImages) -> None:
        self.fabric, self.interrupt, self.bad = fabric, interrupt, bad
        self.news: list[str] | None = None

    def start(self, values: Tensor, bad: Sequence[BadImage]) -> Reading:
        """Average values (n) over ranks, and start to copy them to the host; see `finish`."""
        if self.fabric.world_size > 1:
            values = mean(self.fabric, torch.cat([values, values.new_tensor(self._flags(bad))]))
        return Reading(values)

    def finish(self, reading: Reading, bad: Sequence[BadImage]) -> list[float]:
        """Return the averaged values; if any rank has a signal or new bad images, share them first."""
        values = reading.numbers()
        *values, stops, finds = values if self.fabric.world_size > 1 else [*values, *self._flags(bad)]
        if stops:
            self.interrupt.agree(self.fabric)
        if finds:
            self._share(bad)
        return values

    def _flags(self, bad: Sequence[BadImage]) -> list[float]:
        return [float(self.interrupt.signal is not None), float(len(bad))]

    def _share(self, bad: Sequence[BadImage]) -> None:
        """Add the bad images of all ranks on every rank."""
        images = [item for rank in range(self.fabric.world_size) for item in self.fabric.broadcast(bad, src=rank)]
        self.news = [*(self.news or ()), *self.bad.add(images)]

    def take_news(self) -> list[str] | None:
        """Return the messages about bad images, and forget them; None if there are no new ones."""
        news, self.news = self.news, None
        return news
