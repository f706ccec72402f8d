"""From files to batches: every item a pure function of (seed, epoch, index), for any number of workers or ranks."""

from __future__ import annotations

import hashlib
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from sslkit import augment, images
from sslkit.api import Proposals, Source, ViewSampler
from sslkit.bad_images import Found, usable
from sslkit.boxes import Boxes, empty, within
from sslkit.errors import DataError, PluginError, SslkitError
from sslkit.plan import Plan
from sslkit.plugins import blamed
from sslkit.recipe import View
from sslkit.seeds import generator

ASKING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a run to stop; SLURM sends SIGTERM, and what its `--signal` names, which often is SIGUSR1."""
_MOST_WORKERS = 256
_DYING_S = 2.0
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


@dataclass(frozen=True)
class Failure:
    """An item that could not be made; it travels through the loader in place of a batch.

    Attributes:
        error: What is raised where it arrives.
    """

    message: str
    error: type[SslkitError] = DataError


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


class ViewDataset(Dataset[Any]):
    """Decodes an image once and cuts every view that the plan reads from it, as uint8."""

    def __init__(self, plan: Plan, source: Source, proposals: Proposals | None) -> None:
        self.source = source
        self.proposals = proposals
        self.reads, self.draws = plan.source.component, plan.sampler.component
        self.sampler: ViewSampler = plan.sampler.make()
        self.groups = plan.groups
        self.views = plan.views
        self.seed = plan.recipe.seed
        self.skips = plan.recipe.on_bad_image == "skip"
        self.min_side = plan.recipe.min_image_side
        self.held = torch.full((_MOST_WORKERS,), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, item: Item) -> dict[str, Any] | Failure:
        """Make the views of one item, or of another one where its image cannot be used.

        Returns:
            What `make` returns, and `bad` where something was found wrong on the way. When nothing can be made, this
            is returned and not raised, so that it comes out of a worker process in words.
        """
        bad: list[Found] = []
        for tried in chain([item], item.others(self.seed, len(self.source))):
            self._hold(tried.image)
            try:
                made = self.make(tried)
                return {**made, "bad": bad} if bad else made
            except DataError as error:
                bad.append((tried.image, f"image {tried.image} ({self.source.key(tried.image)}): {error}"))
                if not self.skips:
                    return Failure(f"{bad[0][1]}\n    {_GO_ON}")
            except PluginError as error:
                return Failure(f"image {tried.image} ({self.source.key(tried.image)}): {error}", PluginError)
        return Failure(f"{len(bad)} images in a row cannot be used; the first: {bad[0][1]}")

    def _hold(self, image: int) -> None:
        """Write down which image is in hand where the main process can read it when this one is gone."""
        if worker := get_worker_info():
            self.held[worker.id % _MOST_WORKERS] = image

    def in_hand(self, worker: int) -> str:
        """Name the image that a worker process has in hand, or had when it died."""
        image = int(self.held[worker % _MOST_WORKERS])
        return f"image {image} ({self.source.key(image)})" if image >= 0 else "no image yet"

    def draw(self, item: Item, height: int, width: int) -> tuple[Mapping[str, Boxes], Mapping[str, float]]:
        """Draw the boxes of every view group, and what the sampler counted."""
        proposals = empty() if self.proposals is None else within(self.proposals[item.image], height, width)
        with blamed(self.draws):
            sample = self.sampler.sample(height, width, proposals, generator(self.seed, *item.seeds, "boxes"))
        return sample.boxes, sample.counts

    def make(self, item: Item) -> dict[str, Any]:
        """Return pixels, augmentation parameters and geometry of one item.

        Returns:
            `pixels.{group}.{network}` uint8 (v 3 s s), `draws.{group}.{network}` (v p), `boxes.{group}` (v 4),
            `flipped.{group}` (v), `size` (2), `index`, `counts`.

        Raises:
            DataError: The image cannot be read, or is too small.
            PluginError: The source or the sampler failed.
        """
        with blamed(self.reads):
            image = usable(self.source, item.image, self.min_side)
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
            augment.draw(view, generator(self.seed, *item.seeds, group, number, network))
            for number, view in enumerate(views)
        ]
        return torch.from_numpy(np.stack(drawn))


def _cut(image: images.Image, boxes: Boxes, views: Sequence[View]) -> Tensor:
    view = views[0]
    pixels = images.cuts(image, boxes, view.size, view.interpolation)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


_APART = ("counts", "bad")
"""What of an item is no tensor."""
_GO_ON = 'on_bad_image = "skip" goes on without it; `sslkit data check` finds all of them'


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
            name: torch.stack([item[name] for item in good]) for name in good[0] if name not in _APART
        }
        names = good[0]["counts"]
        batch["counts"] = {name: float(np.mean([item["counts"][name] for item in good])) for name in names}
        batch["bad"] = [found for item in good for found in item.get("bad", ())]
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


class Feed:
    """Batches of items in order, made ahead by loader processes; these end where its block does.

    Args:
        dataset: Makes the items.
        items: Of each batch.
        workers: Loader processes; with 0, batches are made here when they are asked for.
        device: That the batches are for.

    Raises:
        DataError: An image cannot be used; the message names it.
        PluginError: The source or the sampler failed.
        SslkitError: A loader process died; the message says how, and what it had in hand.
    """

    def __init__(self, dataset: ViewDataset, items: Iterator[list[Item]], workers: int, device: torch.device) -> None:
        self.dataset = dataset
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
            self.stream: Any = iter(loader)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the loader processes; of one that died, which torch tells at any moment and place, say what it held."""
        dead: list[str] = []
        for _again in range(2):  # torch may tell of the death here, too
            with suppress(RuntimeError):
                if isinstance(error, OSError | EOFError):
                    self._wait_for_one_that_dies()
                dead = dead or (self._dead() if isinstance(error, RuntimeError | OSError | EOFError) else [])
                self._end()
                break
        if dead:
            raise SslkitError("\n".join(dead)) from error

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> dict[str, Any]:
        batch: dict[str, Any] | Failure = next(self.stream)
        if isinstance(batch, Failure):
            raise batch.error(batch.message)
        return batch

    def _dead(self) -> list[str]:
        """Say of each loader process that died how it did, and what it had in hand."""
        return [
            f"loader process {number} {_how(worker.exitcode)}; it had {self.dataset.in_hand(number)} in hand"
            for number, worker in enumerate(self._workers())
            if worker.exitcode
        ]

    def _wait_for_one_that_dies(self) -> None:
        """Wait a moment: the connections of a process that dies end before it does."""
        if workers := self._workers():
            wait([worker.sentinel for worker in workers], _DYING_S)

    def _workers(self) -> Sequence[Any]:
        return getattr(self.stream, "_workers", ())

    def _end(self) -> None:
        """End the loader processes now: they ignore signals that would end them later, and Python's exit waits."""
        if hasattr(self.stream, "_shutdown_workers"):
            self.stream._shutdown_workers()
            for worker in self.stream._workers:
                worker.kill()


def _how(code: int) -> str:
    if code > 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")


def to_device(
    batch: dict[str, Any], views: Mapping[tuple[str, str], Sequence[View]], device: torch.device
) -> dict[str, Any]:
    """Move a batch, and augment it there when the workers have not."""
    apart = {name: batch.pop(name) for name in _APART}
    draws = {name: value for name, value in batch.items() if name.startswith("draws.")}
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items() if name not in draws}
    moved = augmented(moved | draws, views) if draws else moved
    return {**moved, **apart}


class _Listed:
    """A batch sampler over an iterator that is made for it; used once."""

    def __init__(self, items: Iterator[list[Item]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[list[Item]]:
        return self.items


def _quiet(worker: int) -> None:  # noqa: ARG001
    """Leave signals to the main process: a worker that dies of Ctrl-C would take the batch in hand with it."""
    torch.set_num_threads(1)
    for name in ASKING:
        signal.signal(name, signal.SIG_IGN)
