"""Which images make up each batch: a pure function of (seed, epoch, place), for any number of workers or ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sslkit.api import Source
from sslkit.seeds import generator

TRIES = 100
"""So many images are tried in place of one that cannot be used."""


class Item(NamedTuple):
    """One draw of one image, by its place in the source.

    Attributes:
        stands_for: The image, and the number of the try, that it is drawn in place of.
    """

    epoch: int
    image: int
    stands_for: tuple[int, int] | None = None

    @property
    def seeds(self) -> tuple[int | str, ...]:
        """What its randomness is a function of, besides the recipe's seed."""
        return (self.epoch, self.image, *(("in place of", *self.stands_for) if self.stands_for else ()))

    def others(self, seed: int, images: int) -> Iterator[Item]:
        """Yield what to try in its place, a pure function of (seed, epoch, image)."""
        for number in range(TRIES):
            image = int(generator(seed, self.epoch, self.image, "another", number).integers(images))
            yield Item(self.epoch, image, (self.image, number))


@dataclass
class Epochs:
    """Which images make up each micro-batch, as a pure function of (seed, epoch, position).

    Attributes:
        images: In the source.
        batch_size: Per optimizer step, over all devices.
        accumulate: Passes per optimizer step.
        pad: Whether an epoch's last batch is filled from its beginning, or left out.
        rank: Of this process.
        world: Number of processes.
        skipped: Places of batches that are left out, in order: those that diverged.
    """

    images: int
    batch_size: int
    accumulate: int
    seed: int
    pad: bool = True
    rank: int = 0
    world: int = 1
    skipped: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.images // self.batch_size) if self.pad else self.images // self.batch_size

    @property
    def micro(self) -> int:
        """Images per pass on one device."""
        return self.batch_size // (self.accumulate * self.world)

    def order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the images of an epoch in order, shape (steps * batch_size,)."""
        shuffled = generator(self.seed, "epoch", epoch).permutation(self.images)
        return np.resize(shuffled, self.steps * self.batch_size)

    def place(self, step: int) -> int:
        """Return which batch an optimizer step takes, counted from the first epoch's first."""
        for skipped in self.skipped:
            step += skipped <= step
        return step

    def micro_batches(self, start: int, stop: int) -> Iterator[list[Item]]:
        """Yield this rank's micro-batches of optimizer steps `start` to `stop` (excluded)."""
        epoch, order = -1, np.zeros(0, np.int64)
        for place in map(self.place, range(start, stop)):
            if place // self.steps != epoch:
                epoch = place // self.steps
                order = self.order(epoch)
            first = (place % self.steps) * self.batch_size
            for part in range(self.accumulate):
                begin = first + (part * self.world + self.rank) * self.micro
                yield [Item(epoch, int(index)) for index in order[begin : begin + self.micro]]


def listing(source: Source) -> dict[str, Any]:
    """Return how many images a source has, and a hash of their names in order."""
    digest = hashlib.blake2b(digest_size=8)
    for index in range(len(source)):
        digest.update(source.key(index).encode(errors="surrogatepass") + b"\n")
    return {"images": len(source), "names": digest.hexdigest()}
