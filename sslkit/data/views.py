"""From encoded images to batches of views: every item a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from sslkit import images
from sslkit.api import Proposals, Source, ViewSampler
from sslkit.boxes import Boxes, empty, within
from sslkit.data.augment import on_bytes, on_tensors, parameters
from sslkit.data.bad_images import BadImage, usable
from sslkit.data.cache import Cache
from sslkit.data.epochs import Item
from sslkit.data.ring_buffer import laid_out
from sslkit.errors import DataError, PluginError, SslkitError
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View
from sslkit.plugins import blamed
from sslkit.seeds import generator

APART = ("counts", "bad")
"""What of a batch is no tensor."""
_MOST_WORKERS = 256
_FLIP = parameters.PARAMETERS.index("flip")
_GO_ON = 'on_bad_image = "skip" goes on without it; `sslkit data check` finds all of them'


@dataclass(frozen=True)
class Failure:
    """An item that could not be made; it travels through the loader in place of a batch.

    Attributes:
        error: What is raised where it arrives.
    """

    message: str
    error: type[SslkitError] = DataError


class ViewDataset(Dataset[Any]):
    """Decodes an image once and cuts every view that the plan reads from it, straight into the batch, as bytes.

    Args:
        plan: Says which views.
        source: Of the images.
        proposals: Of the same images.
        colours: Whether views are augmented here, on bytes, or left to `to_device`.
        cache: Keeps decoded images.
    """

    def __init__(
        self, plan: Plan, source: Source, proposals: Proposals | None, colours: bool = True, cache: Cache | None = None
    ) -> None:
        self.source = source
        self.proposals = proposals
        self.colours = colours
        self.cache = cache
        self.reads, self.draws = plan.source.component, plan.sampler.component
        self.sampler: ViewSampler = plan.sampler.make()
        self.groups = plan.groups
        self.views = plan.views
        self.cuts = cuts_of(plan.views)
        self.seed = plan.recipe.seed
        self.skips = plan.recipe.on_bad_image == "skip"
        self.min_side = plan.recipe.min_image_side
        self.held = torch.full((_MOST_WORKERS,), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, items: Sequence[Item]) -> dict[str, Any] | Failure:
        """Make the views of some items; see `fill`."""
        shapes = self.shapes(len(items))
        return self.fill(items, {name: torch.empty(shape, dtype=torch.uint8) for name, shape in shapes.items()})

    def shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        """Return `pixels.{group}.{network}` -> (b v s s 3): the bytes that so many items fill."""
        return {
            _pixels(name): (count, self.groups[name[0]], views[0].size, views[0].size, 3)
            for name, views in self.views.items()
            if self.colours or self.cuts[name] == name
        }

    def fill(self, items: Sequence[Item], pixels: Mapping[str, Tensor]) -> dict[str, Any] | Failure:
        """Make the views of some items, for each of another one where its image cannot be used.

        Args:
            items: As many as there is room for, or less.
            pixels: Room for their views; see `shapes`.

        Returns:
            `pixels.{group}.{network}` uint8 (b v 3 s s), bytes of a pixel side by side: augmented with `colours`, and
            otherwise just cut, once for networks that differ in colours alone; `draws.{group}.{network}` (b v p),
            `boxes.{group}` (b v 4), `flipped.{group}` (b v), `size` (b 2), `index` (b), `counts`, averaged, and `bad`,
            what was found wrong on the way. When nothing can be made, a failure is returned and not raised, so that it
            comes out of a worker process in words.
        """
        batch = self._room(len(items), pixels)
        counts: list[Mapping[str, float]] = []
        bad: list[BadImage] = []
        for place, item in enumerate(items):
            made = self._one_or_another(item, place, batch, bad)
            if isinstance(made, Failure):
                return made
            counts.append(made)
        for group in self.groups:
            network = next(network for name, network in self.views if name == group)
            batch[f"flipped.{group}"] = batch[f"draws.{group}.{network}"][..., _FLIP].clone()
        if self.colours:
            batch = {name: value for name, value in batch.items() if not name.startswith("draws.")}
        means = {name: float(np.mean([count[name] for count in counts])) for name in (counts[0] if counts else ())}
        return {**batch, "counts": means, "bad": bad}

    def _room(self, count: int, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch that is still to be filled."""
        batch = {name: laid_out(part[:count]) for name, part in pixels.items()}
        batch |= {"index": torch.empty(count, dtype=torch.int64), "size": torch.empty(count, 2)}
        for group, network in self.views:
            batch[f"draws.{group}.{network}"] = torch.empty(count, self.groups[group], len(parameters.PARAMETERS))
            batch[f"boxes.{group}"] = torch.empty(count, self.groups[group], 4)
        return batch

    def _one_or_another(
        self, item: Item, place: int, batch: dict[str, Tensor], bad: list[BadImage]
    ) -> Mapping[str, float] | Failure:
        """Fill one place of a batch; return what the sampler counted."""
        found: list[BadImage] = []
        for tried in chain([item], item.others(self.seed, len(self.source))):
            self._hold(tried.image)
            try:
                counts = self.make(tried, place, batch)
            except DataError as error:
                found.append((tried.image, f"image {tried.image} ({self.source.key(tried.image)}): {error}"))
                if not self.skips:
                    return Failure(f"{found[0][1]}\n    {_GO_ON}")
            except PluginError as error:
                return Failure(f"image {tried.image} ({self.source.key(tried.image)}): {error}", PluginError)
            else:
                bad += found
                return counts
        return Failure(f"{len(found)} images in a row cannot be used; the first: {found[0][1]}")

    def _hold(self, image: int) -> None:
        """Write down which image is in hand where the main process can read it when this one is gone."""
        if worker := get_worker_info():
            self.held[worker.id % _MOST_WORKERS] = image

    def in_hand(self, worker: int) -> str:
        """Name the image that a worker process has in hand, or had when it died."""
        image = int(self.held[worker % _MOST_WORKERS])
        return f"image {image} ({self.source.key(image)})" if image >= 0 else "no image yet"

    def image(self, index: int) -> images.Image:
        """Return a decoded image (h w 3), from the cache where it is.

        Raises:
            DataError: It cannot be read, or is too small.
            PluginError: The source failed.
        """
        if self.cache is not None and (kept := self.cache.get(index)) is not None:
            return kept
        with blamed(self.reads):
            image = usable(self.source, index, self.min_side)
        if self.cache is not None:
            self.cache.put(index, image)
        return image

    def draw(self, item: Item, height: int, width: int) -> tuple[Mapping[str, Boxes], Mapping[str, float]]:
        """Draw the boxes of every view group, and what the sampler counted."""
        proposals = empty() if self.proposals is None else within(self.proposals[item.image], height, width)
        with blamed(self.draws):
            sample = self.sampler.sample(height, width, proposals, generator(self.seed, *item.seeds, "boxes"))
        return sample.boxes, sample.counts

    def make(self, item: Item, place: int, batch: dict[str, Tensor]) -> Mapping[str, float]:
        """Fill one place of a batch with an item; return what the sampler counted.

        Raises:
            DataError: The image cannot be read, or is too small.
            PluginError: The source or the sampler failed.
        """
        image = self.image(item.image)
        height, width = image.shape[:2]
        boxes, counts = self.draw(item, height, width)
        batch["index"][place] = item.image
        batch["size"][place] = torch.tensor([height, width])
        for group in self.groups:
            batch[f"boxes.{group}"][place] = torch.from_numpy(np.asarray(boxes[group], np.float32))
        for (group, network), views in self.views.items():
            draws = batch[f"draws.{group}.{network}"][place]
            draws.copy_(torch.tensor(self._draws(item, group, network, views)))
            self._cut(image, boxes[group], (group, network), place, batch)
        if self.colours:
            for (group, network), views in self.views.items():
                self._colour((group, network), views, place, batch)
        return dict(counts)

    def _cut(
        self, image: images.Image, boxes: Boxes, name: tuple[str, str], place: int, batch: Mapping[str, Tensor]
    ) -> None:
        """Cut a group's views for a network, or copy them where they have been cut already."""
        first, view = self.cuts[name], self.views[name][0]
        if first == name:
            out = _side_by_side(batch[_pixels(name)][place])
            images.cuts(image, boxes, view.size, view.interpolation, out)
        elif self.colours:
            batch[_pixels(name)][place] = batch[_pixels(first)][place]

    def _colour(self, name: tuple[str, str], views: Sequence[View], place: int, batch: Mapping[str, Tensor]) -> None:
        """Augment a group's views for a network in place, each as its table says."""
        pixels, draws = _side_by_side(batch[_pixels(name)][place]), batch[_pixels(name).replace("pixels", "draws", 1)]
        for view, row, table in zip(pixels, draws[place].tolist(), views, strict=True):
            on_bytes.apply(view, row, table)

    def _draws(self, item: Item, group: str, network: str, views: Sequence[View]) -> list[list[float]]:
        """Draw each view's augmentation from its own stream, so that dropping one leaves the others as they are."""
        return [
            parameters.draw(view, self.seed, *item.seeds, group, number, network) for number, view in enumerate(views)
        ]


def cuts_of(views: Mapping[tuple[str, str], Sequence[View]]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return, for each network's views of a group, the first of those that are cut in the same way."""
    ways = {name: (name[0], tables[0].size, tables[0].interpolation) for name, tables in views.items()}
    first = {way: name for name, way in reversed(ways.items())}
    return {name: first[way] for name, way in ways.items()}


def _pixels(name: tuple[str, str]) -> str:
    return ".".join(("pixels", *name))


def _side_by_side(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """Return views (v 3 s s) as the array (v s s 3) that they are in memory."""
    array: npt.NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).numpy()
    return array


def to_device(
    batch: dict[str, Any], views: Mapping[tuple[str, str], Sequence[View]], device: torch.device
) -> dict[str, Any]:
    """Move a batch, augment it where its dataset has not, and normalise it.

    Returns:
        The batch with `pixels.{group}.{network}` (b v 3 s s) in float32, for every entry of `views`.
    """
    return ready(moved(batch, device), views)


def moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch, but for what is read where it is."""
    if device.type == "cpu":
        return dict(batch)
    stays = {name for name in batch if name in APART or name.startswith("draws.")}
    pinned = device.type == "cuda"
    return {name: value if name in stays else value.to(device, non_blocking=pinned) for name, value in batch.items()}


def ready(batch: Mapping[str, Any], views: Mapping[tuple[str, str], Sequence[View]]) -> dict[str, Any]:
    """Augment a batch where it is, where its dataset has not, and normalise it."""
    draws = {name: value for name, value in batch.items() if name.startswith("draws.")}
    made = {name: value for name, value in batch.items() if name not in draws}
    cut = {name: made[_pixels(first)] for name, first in cuts_of(views).items() if draws}
    for name, tables in views.items():
        key = _pixels(name)
        drawn = draws.get(key.replace("pixels", "draws", 1))
        made[key] = _normalised(made[key], tables) if drawn is None else _augmented(cut[name], drawn, tables)
    return made


def _normalised(pixels: Tensor, tables: Sequence[View]) -> Tensor:
    """Normalise views (b v 3 s s), those of one kind together."""
    pixels = pixels.permute(0, 1, 3, 4, 2)
    if len({(table.mean, table.std) for table in tables}) == 1:
        return on_tensors.normalise(pixels, tables[0])
    return torch.stack([on_tensors.normalise(pixels[:, place], view) for place, view in enumerate(tables)], dim=1)


def _augmented(pixels: Tensor, draws: Tensor, tables: Sequence[View]) -> Tensor:
    """Augment views (b v 3 s s), those of one kind together."""
    if len(set(tables)) == 1:
        made = on_tensors.apply(pixels.flatten(0, 1), draws.flatten(0, 1), tables[0])
        return made.view(*pixels.shape[:2], *made.shape[1:])
    each = [on_tensors.apply(pixels[:, place], draws[:, place], table) for place, table in enumerate(tables)]
    return torch.stack(each, dim=1)
