"""Time the loading of an image into a batch, and the loader on its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import cv2
import torch
from torch import Tensor

from sslkit import images
from sslkit.api import Source
from sslkit.boxes import Boxes
from sslkit.contracts.proposals import CheckedProposals
from sslkit.data.epochs import Epochs, Item
from sslkit.data.loader import Loader
from sslkit.data.views import Failure, ViewDataset
from sslkit.doctor.clock import Clock
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View

REST = "the rest"
ORDER = ("read", "decode", "boxes", "cut", "colour", REST)
MAX_IMAGES = 32
"""Images per batch here, at most those of a micro-batch. The time of a batch is almost all in its images."""
_ENOUGH_S = 2.0
_MIN_IMAGES, _ENOUGH_IMAGES = 32, 256


@dataclass(frozen=True)
class ImageTiming:
    """The time to load an image on one core, and its size.

    Attributes:
        count: Number of timed images.
        sections: Section -> seconds per image; they add up to `seconds`.
        decoded: Bytes of a decoded image, as a mean over the timed ones.
        in_batch: Bytes of an image's views and other tensors in a batch.
    """

    count: int
    sections: Mapping[str, float]
    decoded: float
    in_batch: int

    @property
    def seconds(self) -> float:
        """Seconds to load an image."""
        return sum(self.sections.values())

    @property
    def decoding(self) -> float:
        """Seconds that a cache of decoded images saves."""
        return self.sections.get("read", 0.0) + self.sections.get("decode", 0.0)


class TimedDataset(ViewDataset):
    """Makes batches in this process, and measures the time of their sections."""

    def __init__(self, clock: Clock, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.clock = clock
        self.decoded: list[int] = []

    def image(self, index: int) -> images.Image:
        """Return a decoded image (h w 3)."""
        with self.clock.section("decode"):
            image = super().image(index)
        self.decoded.append(image.nbytes)
        return image

    def sample_boxes(self, item: Item, height: int, width: int) -> tuple[Mapping[str, Boxes], Mapping[str, float]]:
        """Draw the boxes of every view group, and return the sampler's counts with them."""
        with self.clock.section("boxes"):
            return super().sample_boxes(item, height, width)

    def _crop(self, *arguments: Any) -> None:
        with self.clock.section("cut"):
            super()._crop(*arguments)

    def _draw_augmentation(self, item: Item, group: str, network: str, views: Sequence[View]) -> list[list[float]]:
        with self.clock.section("colour"):
            return super()._draw_augmentation(item, group, network, views)

    def _augment(self, *arguments: Any) -> None:
        with self.clock.section("colour"):
            super()._augment(*arguments)


def time_image(
    plan: Plan, source: Source, proposals: CheckedProposals | None, augment: bool, items: Iterator[list[Item]]
) -> ImageTiming:
    """Make batches in this process on one core, and measure the time per image.

    Args:
        plan: The plan, which defines the views.
        source: The images.
        proposals: Their proposals.
        augment: Whether views are augmented here.
        items: Items of each batch; the first batch is not counted.

    Raises:
        DataError: An image cannot be used.
        PluginError: The source or the sampler failed.
    """
    clock = Clock(torch.device("cpu"))
    dataset = TimedDataset(clock, plan, source, proposals, augment)
    with _one_core(), clock.calls(source, "read", "read"):
        _make_batch(dataset, next(items))
        clock.seconds.clear()
        dataset.decoded.clear()
        count = 0
        while count < _MIN_IMAGES or (count < _ENOUGH_IMAGES and sum(clock.seconds.values()) < _ENOUGH_S):
            chunk = next(items)
            with clock.section(REST):
                batch = _make_batch(dataset, chunk)
            count += len(chunk)
    size = sum(value.nbytes for value in batch.values() if isinstance(value, Tensor)) // len(chunk)
    seconds = {name: clock.seconds[name] / count for name in ORDER if name in clock.seconds}
    return ImageTiming(count, seconds, sum(dataset.decoded) / len(dataset.decoded), size)


def _make_batch(dataset: ViewDataset, items: Sequence[Item]) -> dict[str, Any]:
    batch = dataset[items]
    if isinstance(batch, Failure):
        raise batch.error(batch.message)
    return batch


@contextmanager
def _one_core() -> Iterator[None]:
    """Use one core, as a loader process does."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)


def batches(epochs: Epochs, first: int) -> Iterator[list[Item]]:
    """Yield batches of at most `MAX_IMAGES` images of this rank, from step `first` on, without end."""
    size = min(MAX_IMAGES, epochs.micro_batch_size)
    items = chain.from_iterable(epochs.micro_batches(first, 2**40))
    while True:
        yield list(islice(items, size))


def loader_rate(dataset: ViewDataset, items: Iterator[list[Item]], workers: int, device: torch.device) -> float:
    """Return the images per second of the loader when it never waits for a step.

    Every process makes a batch before the timing starts, and whole rounds over the processes are timed.
    """
    rounds, count = 0, 0
    with Loader(dataset, items, workers, device) as feed:
        for _ in range(max(1, workers)):
            next(feed)
        started = time.perf_counter()
        while rounds < 2 or time.perf_counter() - started < _ENOUGH_S:
            for _ in range(max(1, workers)):
                count += len(next(feed)["index"])
            rounds += 1
        return count / (time.perf_counter() - started)
