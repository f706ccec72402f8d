"""What a photo takes on its way into a batch, and how many the loader makes when nobody keeps it waiting."""

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
from sslkit.api import Proposals, Source
from sslkit.boxes import Boxes
from sslkit.data.epochs import Epochs, Item
from sslkit.data.loader import Loader
from sslkit.data.views import Failure, ViewDataset
from sslkit.doctor.clock import Clock
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View

REST = "the rest"
ORDER = ("read", "decode", "boxes", "cut", "colour", REST)
MOST = 32
"""Photos of a batch here, or as many as a pass has: the time of a batch is in its photos."""
_ENOUGH_S = 2.0
_FEWEST, _MANY = 32, 256


@dataclass(frozen=True)
class Photo:
    """What a photo takes on one core, and its size.

    Attributes:
        count: Photos that were timed.
        sections: Section -> seconds; they add up to `seconds`.
        decoded: Bytes of its pixels, mean of those that were timed.
        made: Bytes of all that is made of it for a batch.
    """

    count: int
    sections: Mapping[str, float]
    decoded: float
    made: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.sections.values())

    @property
    def decoding(self) -> float:
        """What a cache of decoded photos saves."""
        return self.sections.get("read", 0.0) + self.sections.get("decode", 0.0)


class Timed(ViewDataset):
    """Makes batches in this process, and counts where their time goes."""

    def __init__(self, clock: Clock, *given: Any) -> None:
        super().__init__(*given)
        self.clock = clock
        self.decoded: list[int] = []

    def image(self, index: int) -> images.Image:
        """Return a decoded image (h w 3)."""
        with self.clock.section("decode"):
            image = super().image(index)
        self.decoded.append(image.nbytes)
        return image

    def draw(self, item: Item, height: int, width: int) -> tuple[Mapping[str, Boxes], Mapping[str, float]]:
        """Draw the boxes of every view group, and what the sampler counted."""
        with self.clock.section("boxes"):
            return super().draw(item, height, width)

    def _cut(self, *given: Any) -> None:
        with self.clock.section("cut"):
            super()._cut(*given)

    def _draws(self, item: Item, group: str, network: str, views: Sequence[View]) -> list[list[float]]:
        with self.clock.section("colour"):
            return super()._draws(item, group, network, views)

    def _colour(self, *given: Any) -> None:
        with self.clock.section("colour"):
            super()._colour(*given)


def photo(plan: Plan, source: Source, proposals: Proposals | None, colours: bool, items: Iterator[list[Item]]) -> Photo:
    """Make batches in this process on one core, and say what a photo takes.

    Args:
        plan: Says which views.
        source: Of the photos.
        proposals: Of the same.
        colours: Whether views are augmented here.
        items: Of each batch; the first one is not counted.

    Raises:
        DataError: An image cannot be used.
        PluginError: The source or the sampler failed.
    """
    clock = Clock(torch.device("cpu"))
    dataset = Timed(clock, plan, source, proposals, colours)
    with _one_core(), clock.calls(source, "read", "read"):
        _made(dataset, next(items))
        clock.seconds.clear()
        dataset.decoded.clear()
        count = 0
        while count < _FEWEST or (count < _MANY and sum(clock.seconds.values()) < _ENOUGH_S):
            batch = next(items)
            with clock.section(REST):
                made = _made(dataset, batch)
            count += len(batch)
    size = sum(value.nbytes for value in made.values() if isinstance(value, Tensor)) // len(batch)
    seconds = {name: clock.seconds[name] / count for name in ORDER if name in clock.seconds}
    return Photo(count, seconds, sum(dataset.decoded) / len(dataset.decoded), size)


def _made(dataset: ViewDataset, items: Sequence[Item]) -> dict[str, Any]:
    made = dataset[items]
    if isinstance(made, Failure):
        raise made.error(made.message)
    return made


@contextmanager
def _one_core() -> Iterator[None]:
    """Compute as a loader process does."""
    torchs, cv2s = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torchs)
        cv2.setNumThreads(cv2s)


def batches(epochs: Epochs, first: int) -> Iterator[list[Item]]:
    """Yield batches of at most `MOST` of this process' photos, from a step on, without end."""
    size = min(MOST, epochs.micro)
    far = epochs.micro_batches(first, 2**40)
    items = chain.from_iterable(far)
    while True:
        yield list(islice(items, size))


def rate(dataset: ViewDataset, items: Iterator[list[Item]], workers: int, device: torch.device) -> float:
    """Return how many photos per second the loader makes when nobody keeps it waiting.

    Every process makes a batch before the clock is started, and whole rounds are timed.
    """
    rounds, photos = 0, 0
    with Loader(dataset, items, workers, device) as feed:
        for _ in range(max(1, workers)):
            next(feed)
        began = time.perf_counter()
        while rounds < 2 or time.perf_counter() - began < _ENOUGH_S:
            for _ in range(max(1, workers)):
                photos += len(next(feed)["index"])
            rounds += 1
        return photos / (time.perf_counter() - began)
