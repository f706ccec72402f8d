"""The images of each batch: a pure function of (seed, epoch, position), for any number of workers or ranks."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sslkit.api import Source
from sslkit.contracts.sources import refuse_repeated_keys
from sslkit.planning.recipe import Recipe
from sslkit.seeds import generator

MAX_TRIES = 100
"""Number of replacements to try for an image that cannot be used."""


class Item(NamedTuple):
    """One draw of one image.

    Attributes:
        image: Index in the source.
        replaces: The image that this one replaces, and the number of the attempt.
    """

    epoch: int
    image: int
    replaces: tuple[int, int] | None = None

    @property
    def seeds(self) -> tuple[int | str, ...]:
        """The path of seeds for the item's random numbers, after the recipe's seed."""
        return (self.epoch, self.image, *(("in place of", *self.replaces) if self.replaces else ()))

    def replacements(self, seed: int, images: int) -> Iterator[Item]:
        """Yield the items to try in its place, a pure function of (seed, epoch, image)."""
        for number in range(MAX_TRIES):
            image = int(generator(seed, self.epoch, self.image, "another", number).integers(images))
            yield Item(self.epoch, image, (self.image, number))


@dataclass
class Epochs:
    """The images of each micro-batch, as a pure function of (seed, epoch, position).

    Attributes:
        images: Number of images in the source.
        batch_size: Images per optimizer step, over all devices.
        accumulate: Micro-batches per optimizer step.
        pad: Whether to fill an epoch's last batch from the start of the epoch instead of leaving it out.
        rank: This rank.
        world: Number of ranks.
        skipped: Indices of the batches that are left out because they diverged, in order.
    """

    images: int
    batch_size: int
    accumulate: int
    seed: int
    pad: bool = True
    rank: int = 0
    world: int = 1
    skipped: tuple[int, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, images: int, rank: int = 0, world: int = 1) -> Epochs:
        """Return the epochs of a recipe over a number of images."""
        return cls(images, recipe.batch_size, recipe.accumulate, recipe.seed, recipe.last_batch == "pad", rank, world)

    def state_dict(self) -> list[int]:
        """Return the batches that are skipped."""
        return list(self.skipped)

    def load_state_dict(self, state: Sequence[int]) -> None:
        """Restore the batches that are skipped."""
        self.skipped = tuple(state)

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.images // self.batch_size) if self.pad else self.images // self.batch_size

    @property
    def micro_batch_size(self) -> int:
        """Images per micro-batch on one device."""
        return self.batch_size // (self.accumulate * self.world)

    def order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the images of an epoch in order, shape (steps * batch_size,)."""
        shuffled = generator(self.seed, "epoch", epoch).permutation(self.images)
        return np.resize(shuffled, self.steps * self.batch_size)

    def batch_index(self, step: int) -> int:
        """Return the index of an optimizer step's batch, counted from the start of the first epoch."""
        for skipped in self.skipped:
            step += skipped <= step
        return step

    def micro_batches(self, start: int, stop: int) -> Iterator[list[Item]]:
        """Yield this rank's micro-batches of optimizer steps `start` to `stop` (excluded)."""
        epoch, order = -1, np.zeros(0, np.int64)
        for batch in map(self.batch_index, range(start, stop)):
            if batch // self.steps != epoch:
                epoch = batch // self.steps
                order = self.order(epoch)
            first = (batch % self.steps) * self.batch_size
            for part in range(self.accumulate):
                begin = first + (part * self.world + self.rank) * self.micro_batch_size
                yield [Item(epoch, int(index)) for index in order[begin : begin + self.micro_batch_size]]


def listing(source: Source) -> dict[str, Any]:
    """Return the number of images in a source, and a hash of their names in order.

    Raises:
        PluginError: Two images have the same key.
    """
    digest = hashlib.blake2b(digest_size=8)
    hashes = array("q")
    for index in range(len(source)):
        key = source.key(index)
        digest.update(key.encode(errors="surrogatepass") + b"\n")
        hashes.append(hash(key))
    refuse_repeated_keys(source, hashes)
    return {"images": len(source), "names": digest.hexdigest()}
