"""From files to batches: every item a pure function of (seed, epoch, index), for any number of workers or ranks."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sslkit import augment, images
from sslkit.api import Proposals, Source, ViewSampler
from sslkit.boxes import Boxes, clip, empty
from sslkit.errors import DataError
from sslkit.plan import Plan
from sslkit.recipe import View
from sslkit.seeds import generator


class Item(NamedTuple):
    """One draw of one image, by its place in the source."""

    epoch: int
    image: int


@dataclass(frozen=True)
class Failure:
    """An item that could not be made; it travels through the loader in place of a batch."""

    message: str


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
    """

    images: int
    batch_size: int
    accumulate: int
    seed: int
    pad: bool = True
    rank: int = 0
    world: int = 1

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

    def micro_batches(self, start: int, stop: int) -> Iterator[list[Item]]:
        """Yield this rank's micro-batches of optimizer steps `start` to `stop` (excluded)."""
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(start, stop):
            if step // self.steps != epoch:
                epoch = step // self.steps
                order = self.order(epoch)
            first = (step % self.steps) * self.batch_size
            for part in range(self.accumulate):
                begin = first + (part * self.world + self.rank) * self.micro
                yield [Item(epoch, int(index)) for index in order[begin : begin + self.micro]]


class ViewDataset(Dataset[Any]):
    """Decodes an image once and cuts every view that the plan reads from it, as uint8."""

    def __init__(self, plan: Plan, source: Source, proposals: Proposals | None) -> None:
        self.source = source
        self.proposals = proposals
        self.sampler: ViewSampler = plan.sampler.make()
        self.groups = plan.groups
        self.views = plan.views
        self.seed = plan.recipe.seed

    def __getitem__(self, item: Item) -> dict[str, Any] | Failure:
        """Make the views of one item; see `make`. What is wrong with its file is returned, not raised."""
        try:
            return self.make(item)
        except DataError as error:
            return Failure(f"image {item.image} ({self.source.key(item.image)}): {error}")

    def draw(self, item: Item, height: int, width: int) -> tuple[Mapping[str, Boxes], Mapping[str, float]]:
        """Draw the boxes of every view group, and what the sampler counted."""
        proposals = empty() if self.proposals is None else clip(self.proposals[item.image], height, width)
        sample = self.sampler.sample(height, width, proposals, generator(self.seed, *item, "boxes"))
        return sample.boxes, sample.counts

    def make(self, item: Item) -> dict[str, Any]:
        """Return pixels, augmentation parameters and geometry of one item.

        Returns:
            `pixels.{group}.{network}` uint8 (v 3 s s), `draws.{group}.{network}` (v p), `boxes.{group}` (v 4),
            `flipped.{group}` (v), `size` (2), `index`, `counts`.
        """
        key = self.source.key(item.image)
        image = images.decode(self.source.read(item.image), key)
        height, width = image.shape[:2]
        boxes, counts = self.draw(item, height, width)
        made: dict[str, Any] = {
            "index": torch.tensor(item.image),
            "size": torch.tensor([height, width], dtype=torch.float32),
            "counts": dict(counts),
        }
        for (group, network), views in self.views.items():
            made[f"pixels.{group}.{network}"] = _cut(image, boxes[group], views)
            draws = self._draws(item, group, network, views)
            made[f"draws.{group}.{network}"] = draws
            made[f"boxes.{group}"] = torch.from_numpy(np.asarray(boxes[group], np.float32))
            made.setdefault(f"flipped.{group}", draws[:, augment.PARAMETERS.index("flip")])
        return made

    def _draws(self, item: Item, group: str, network: str, views: Sequence[View]) -> Tensor:
        """Draw each view's augmentation from its own stream, so that dropping one leaves the others as they are."""
        drawn = [
            augment.draw(view, generator(self.seed, *item, group, number, network)) for number, view in enumerate(views)
        ]
        return torch.from_numpy(np.stack(drawn))


def _cut(image: images.Image, boxes: Boxes, views: Sequence[View]) -> Tensor:
    view = views[0]
    pixels = images.cuts(image, boxes, view.size, view.interpolation)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@dataclass
class Collate:
    """Stacks items; augments in the worker when the device is the CPU, and leaves uint8 for the device when not."""

    views: Mapping[tuple[str, str], Sequence[View]]
    augmented: bool

    def __call__(self, items: Sequence[dict[str, Any] | Failure]) -> dict[str, Any] | Failure:
        """Make one batch of items, or pass on the first failure."""
        good = [item for item in items if not isinstance(item, Failure)]
        if len(good) < len(items):
            return next(item for item in items if isinstance(item, Failure))
        batch: dict[str, Any] = {
            name: torch.stack([item[name] for item in good]) for name in good[0] if name != "counts"
        }
        names = good[0]["counts"]
        batch["counts"] = {name: float(np.mean([item["counts"][name] for item in good])) for name in names}
        return augmented(batch, self.views) if self.augmented else batch


def augmented(batch: dict[str, Any], views: Mapping[tuple[str, str], Sequence[View]]) -> dict[str, Any]:
    """Turn uint8 pixels and drawn parameters into normalised views, on the device that the pixels are on."""
    for (group, network), tables in views.items():
        pixels, draws = batch[f"pixels.{group}.{network}"], batch.pop(f"draws.{group}.{network}")
        batch[f"pixels.{group}.{network}"] = _augment(pixels, draws, tables)
    return batch


def _augment(pixels: Tensor, draws: Tensor, tables: Sequence[View]) -> Tensor:
    """Augment views (b v 3 h w), those of one kind together."""
    if len(set(tables)) == 1:
        made = augment.apply(pixels.flatten(0, 1), draws.flatten(0, 1), tables[0])
        return made.view(*pixels.shape[:2], *made.shape[1:])
    each = [augment.apply(pixels[:, place], draws[:, place], table) for place, table in enumerate(tables)]
    return torch.stack(each, dim=1)


def batches(
    dataset: ViewDataset, items: Iterator[list[Item]], workers: int, device: torch.device
) -> Generator[dict[str, Any]]:
    """Yield batches of `items` in order; close it to end the workers.

    Raises:
        DataError: An image cannot be read; the message names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # how many is the user's choice
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=_Listed(items),
            num_workers=workers,
            collate_fn=Collate(dataset.views, augmented=device.type == "cpu"),
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None,
            worker_init_fn=_quiet if workers else None,
        )
        stream = iter(loader)
    try:
        for batch in stream:
            if isinstance(batch, Failure):
                raise DataError(batch.message)
            yield batch
    finally:
        _end(stream)


def _end(stream: Any) -> None:
    """End the workers now: they ignore the signals that would end them later, and Python waits for them at its exit."""
    if hasattr(stream, "_shutdown_workers"):
        stream._shutdown_workers()
        for worker in stream._workers:
            worker.kill()


def to_device(
    batch: dict[str, Any], views: Mapping[tuple[str, str], Sequence[View]], device: torch.device
) -> dict[str, Any]:
    """Move a batch, and augment it there when the workers have not."""
    counts = batch.pop("counts")
    draws = {name: value for name, value in batch.items() if name.startswith("draws.")}
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items() if name not in draws}
    moved = augmented(moved | draws, views) if draws else moved
    return {**moved, "counts": counts}


class _Listed:
    """A batch sampler over an iterator that is made for it; used once."""

    def __init__(self, items: Iterator[list[Item]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[list[Item]]:
        return self.items


def _quiet(worker: int) -> None:  # noqa: ARG001
    """Leave signals to the main process: a worker that dies of Ctrl-C would take the batch in hand with it."""
    import signal

    torch.set_num_threads(1)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
