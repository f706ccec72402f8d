"""Turn encoded images into batches of views: every item is a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from sslkit import images
from sslkit.api import Source
from sslkit.boxes import Boxes, empty
from sslkit.contracts.proposals import CheckedProposals
from sslkit.contracts.samplers import CheckedSampler
from sslkit.data.augment import on_bytes, on_tensors, parameters
from sslkit.data.bad_images import BadImage, read_usable
from sslkit.data.cache import Cache
from sslkit.data.epochs import Item
from sslkit.data.ring_buffer import as_channels_last, shared_bytes
from sslkit.errors import DataError, PluginError, SslkitError
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View
from sslkit.seeds import generator

NOT_TENSORS = ("counts", "bad")
"""Entries of a batch that are not tensors."""
_MOST_WORKERS = 256
_FLIP = parameters.PARAMETERS.index("flip")
_SKIP_HINT = 'on_bad_image = "skip" continues without it; `sslkit data check` finds all of them'


@dataclass(frozen=True)
class Failure:
    """An item that could not be made, sent through the loader in place of a batch.

    Attributes:
        error: The error to raise at the other end.
    """

    message: str
    error: type[SslkitError] = DataError


class ViewDataset(Dataset[Any]):
    """A dataset that decodes each image once and crops all its views straight into the batch, as bytes.

    Args:
        plan: Defines the views.
        source: The images.
        proposals: Their proposals.
        augment: Whether views are augmented here, on bytes, or later by `to_device`.
        cache: A cache of decoded images.
    """

    def __init__(
        self, plan: Plan, source: Source, proposals: CheckedProposals | None, augment: bool = True,
        cache: Cache | None = None,
    ) -> None:  # fmt: skip
        self.source = source
        self.proposals = proposals
        self.augment = augment
        self.cache = cache
        self.sampler = CheckedSampler(plan.sampler.component, plan.sampler.make())
        self.groups = plan.groups
        self.views = plan.views
        self.crop_of = shared_crops(plan.views)
        self.seed = plan.recipe.seed
        self.skip_bad = plan.recipe.on_bad_image == "skip"
        self.min_side = plan.recipe.min_image_side
        self.current = shared_bytes(8 * _MOST_WORKERS).view(torch.int64).fill_(-1)

    def __getitem__(self, items: Sequence[Item]) -> dict[str, Any] | Failure:
        """Make a batch of items in new memory; see `fill`."""
        shapes = self.pixel_shapes(len(items))
        return self.fill(items, {name: torch.empty(shape, dtype=torch.uint8) for name, shape in shapes.items()})

    def pixel_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        """Return `pixels.{group}.{network}` -> (b v s s 3): the shapes of the pixels of `count` items."""
        return {
            _pixels(name): (count, self.groups[name[0]], views[0].size, views[0].size, 3)
            for name, views in self.views.items()
            if self.augment or self.crop_of[name] == name
        }

    def fill(self, items: Sequence[Item], pixels: Mapping[str, Tensor]) -> dict[str, Any] | Failure:
        """Make a batch of items, replacing those whose image cannot be used.

        Args:
            items: No more than `pixels` has space for.
            pixels: Memory for their views; see `pixel_shapes`.

        Returns:
            `pixels.{group}.{network}` uint8 (b v 3 s s) in channels-last memory, augmented with `augment`; otherwise
            only cropped, once for networks that differ only in augmentation, with `draws.{group}.{network}` (b v p).
            `boxes.{group}` (b v 4), `flipped.{group}` (b v), `size` (b 2), `index` (b), the average `counts`, and
            `bad`, the images that could not be used. A failure is returned and not raised, so that its message leaves
            the worker process.
        """
        batch = self._new_batch(len(items), pixels)
        counts: list[Mapping[str, float]] = []
        bad: list[BadImage] = []
        for place, item in enumerate(items):
            result = self._fill_or_replace(item, place, batch, bad)
            if isinstance(result, Failure):
                return result
            counts.append(result)
        for group, count in self.groups.items():
            seen = [f"draws.{group}.{network}" for name, network in self.views if name == group]
            flipped = batch[seen[0]][..., _FLIP].clone() if seen else torch.zeros(len(items), count)
            batch[f"flipped.{group}"] = flipped
        if self.augment:
            batch = {name: value for name, value in batch.items() if not name.startswith("draws.")}
        means = {name: float(np.mean([count[name] for count in counts])) for name in (counts[0] if counts else ())}
        return {**batch, "counts": means, "bad": bad}

    def _new_batch(self, count: int, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return an empty batch for `count` items."""
        batch = {name: as_channels_last(part[:count]) for name, part in pixels.items()}
        batch |= {"index": torch.empty(count, dtype=torch.int64), "size": torch.empty(count, 2)}
        for group, network in self.views:
            batch[f"draws.{group}.{network}"] = torch.empty(count, self.groups[group], len(parameters.PARAMETERS))
        for group, views in self.groups.items():
            batch[f"boxes.{group}"] = torch.empty(count, views, 4)
        return batch

    def _fill_or_replace(
        self, item: Item, place: int, batch: dict[str, Tensor], bad: list[BadImage]
    ) -> Mapping[str, float] | Failure:
        """Fill one place of a batch with an item or its replacement; return the sampler's counts."""
        failed: list[BadImage] = []
        for candidate in chain([item], item.replacements(self.seed, len(self.source))):
            self._set_current(candidate.image)
            try:
                counts = self.fill_item(candidate, place, batch)
            except DataError as error:
                failed.append((candidate.image, f"{self._name(candidate.image)}: {error}"))
                if not self.skip_bad:
                    return Failure(f"{failed[0][1]}\n    {_SKIP_HINT}")
            except SslkitError as error:
                kind = PluginError if isinstance(error, PluginError) else SslkitError
                return Failure(f"{self._name(candidate.image)}: {error}", kind)
            else:
                bad += failed
                return counts
        tried = f"{len({image for image, _ in failed})} of {len(self.source)} images were tried for a place of a batch"
        return Failure(f"{tried}, and none can be used; the first: {failed[0][1]}")

    def _set_current(self, image: int) -> None:
        """Record the current image in shared memory, where the main process can read it if this process dies."""
        if worker := get_worker_info():
            self.current[worker.id % _MOST_WORKERS] = image

    def current_image(self, worker: int) -> str:
        """Name the image that a worker process is working on, or was when it died."""
        image = int(self.current[worker % _MOST_WORKERS])
        return self._name(image) if image >= 0 else "no image yet"

    def _name(self, image: int) -> str:
        with suppress(SslkitError):  # the source may be what failed
            return f"image {image} ({self.source.key(image)})"
        return f"image {image}"

    def image(self, index: int) -> images.Image:
        """Return a decoded image (h w 3), from the cache if it has it.

        Raises:
            DataError: It cannot be read, or is too small.
            PluginError: The source failed, or broke its contract.
        """
        if self.cache is not None and (cached := self.cache.get(index)) is not None:
            return cached
        image = read_usable(self.source, index, self.min_side)
        if self.cache is not None:
            self.cache.put(index, image)
        return image

    def sample_boxes(self, item: Item, height: int, width: int) -> tuple[Mapping[str, Boxes], Mapping[str, float]]:
        """Draw the boxes of every view group; return them and the sampler's counts."""
        proposals = empty() if self.proposals is None else self.proposals.within(item.image, height, width)
        sample = self.sampler.sample(height, width, proposals, generator(self.seed, *item.seeds, "boxes"))
        return sample.boxes, sample.counts

    def fill_item(self, item: Item, place: int, batch: dict[str, Tensor]) -> Mapping[str, float]:
        """Fill one place of a batch with an item; return the sampler's counts.

        Raises:
            DataError: The image cannot be read, or is too small.
            PluginError: The source, the proposer or the sampler failed, or broke its contract.
        """
        image = self.image(item.image)
        height, width = image.shape[:2]
        boxes, counts = self.sample_boxes(item, height, width)
        batch["index"][place] = item.image
        batch["size"][place] = torch.tensor([height, width])
        for group in self.groups:
            batch[f"boxes.{group}"][place].numpy()[...] = boxes[group]
        for (group, network), views in self.views.items():
            draws = batch[f"draws.{group}.{network}"][place]
            draws.copy_(torch.tensor(self._draw_augmentation(item, group, network, views)))
            self._crop(image, boxes[group], (group, network), place, batch)
        if self.augment:
            for (group, network), views in self.views.items():
                self._augment((group, network), views, place, batch)
        return dict(counts)

    def _crop(
        self, image: images.Image, boxes: Boxes, name: tuple[str, str], place: int, batch: Mapping[str, Tensor]
    ) -> None:
        """Crop a group's views for a network, or copy them where the same crops exist already."""
        first, view = self.crop_of[name], self.views[name][0]
        if first == name:
            out = _as_array(batch[_pixels(name)][place])
            images.cuts(image, boxes, view.size, view.interpolation, out)
        elif self.augment:
            batch[_pixels(name)][place] = batch[_pixels(first)][place]

    def _augment(self, name: tuple[str, str], views: Sequence[View], place: int, batch: Mapping[str, Tensor]) -> None:
        """Augment a group's views for a network in place, each by its own table."""
        pixels, draws = _as_array(batch[_pixels(name)][place]), batch[_pixels(name).replace("pixels", "draws", 1)]
        for view, row, table in zip(pixels, draws[place].tolist(), views, strict=True):
            on_bytes.apply(view, row, table)

    def _draw_augmentation(self, item: Item, group: str, network: str, views: Sequence[View]) -> list[list[float]]:
        """Draw each view's augmentation from its own stream, so that dropping one leaves the others unchanged."""
        return [
            parameters.draw(view, self.seed, *item.seeds, group, number, network) for number, view in enumerate(views)
        ]


def shared_crops(views: Mapping[tuple[str, str], Sequence[View]]) -> dict[tuple[str, str], tuple[str, str]]:
    """Map each (group, network) to the first one whose views are cropped in the same way."""
    ways = {name: (name[0], tables[0].size, tables[0].interpolation) for name, tables in views.items()}
    first = {way: name for name, way in reversed(ways.items())}
    return {name: first[way] for name, way in ways.items()}


def _pixels(name: tuple[str, str]) -> str:
    return ".".join(("pixels", *name))


def _as_array(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """Return views (v 3 s s) as an array (v s s 3), which is their layout in memory."""
    array: npt.NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).numpy()
    return array


def to_device(
    batch: dict[str, Any], views: Mapping[tuple[str, str], Sequence[View]], device: torch.device
) -> dict[str, Any]:
    """Move a batch to a device, augment it unless its dataset has, and normalise it.

    Returns:
        The batch with `pixels.{group}.{network}` (b v 3 s s) in float32, for every entry of `views`.
    """
    return augment_and_normalise(move_to_device(batch, device), views)


def move_to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch to a device, except for entries that are read on the CPU."""
    if device.type == "cpu":
        return dict(batch)
    on_cpu = {name for name in batch if name in NOT_TENSORS or name.startswith("draws.")}
    pinned = device.type == "cuda"
    return {name: value if name in on_cpu else value.to(device, non_blocking=pinned) for name, value in batch.items()}


def augment_and_normalise(batch: Mapping[str, Any], views: Mapping[tuple[str, str], Sequence[View]]) -> dict[str, Any]:
    """Augment a batch on its device, unless its dataset has, and normalise it."""
    draws = {name: value for name, value in batch.items() if name.startswith("draws.")}
    result = {name: value for name, value in batch.items() if name not in draws}
    crops = {name: result[_pixels(first)] for name, first in shared_crops(views).items() if draws}
    for name, tables in views.items():
        key = _pixels(name)
        drawn = draws.get(key.replace("pixels", "draws", 1))
        result[key] = _normalise(result[key], tables) if drawn is None else _augment(crops[name], drawn, tables)
    return result


def _normalise(pixels: Tensor, tables: Sequence[View]) -> Tensor:
    """Normalise views (b v 3 s s), all at once where their tables agree."""
    pixels = pixels.permute(0, 1, 3, 4, 2)
    if len({(table.mean, table.std) for table in tables}) == 1:
        return on_tensors.normalise(pixels, tables[0])
    return torch.stack([on_tensors.normalise(pixels[:, place], view) for place, view in enumerate(tables)], dim=1)


def _augment(pixels: Tensor, draws: Tensor, tables: Sequence[View]) -> Tensor:
    """Augment views (b v 3 s s), all at once where their tables agree."""
    if len(set(tables)) == 1:
        result = on_tensors.apply(pixels.flatten(0, 1), draws.flatten(0, 1), tables[0])
        return result.view(*pixels.shape[:2], *result.shape[1:])
    each = [on_tensors.apply(pixels[:, place], draws[:, place], table) for place, table in enumerate(tables)]
    return torch.stack(each, dim=1)
