"""Labelled crops for probes: split them by image into a training and a test side, and stream their pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslkit import images
from sslkit.api import Progress, Source, no_progress
from sslkit.boxes import Boxes
from sslkit.contracts.sources import CheckedSource
from sslkit.errors import DataError
from sslkit.folders import cores
from sslkit.planning.recipe import ProbeTable
from sslkit.probes.crop_list import CropList, list_crops
from sslkit.seeds import generator

_BATCH = 256
_CACHE_BYTES = 2**28
"""Pixels are cached for the next network up to this size; a larger set is read again."""
_MOST_COMPARED = 64
_CENTRE_SHARE = 224 / 256
"""Share of the shorter side in the centre crop that classifiers are usually tested on."""
_ADVICE = {
    "objects": 'use a source with labelled boxes, or classify whole images: crops = "images"',
    "images": "use a source with labelled images (some read labels only when an option says so), "
    'or classify objects: crops = "objects"',
    "multi-label": "use a source with labelled boxes",
}
_CROPS = {"objects": "labelled objects", "images": "labelled images", "multi-label": "images with labelled objects"}


class Crops:
    """Labelled square crops of one source, or of a training and a test source, cropped while they are read.

    Attributes:
        labels: int64 (n), or bool (n c).
        images: int64 (n): the image that each crop comes from.
        test: bool (n): whether a crop is on the test side; no image is on both sides.
        readable: bool (n): whether the image can be decoded; known once the pixels have been read.
        unreadable: Reasons why images cannot be decoded, one line for each image.
    """

    def __init__(self, parts: Sequence[CropList], test: npt.NDArray[np.bool_], table: ProbeTable) -> None:
        self.parts = parts
        self.table = table
        self.categories = tuple(parts[0].source.categories)
        starts = np.cumsum([0, *(len(part.source) for part in parts)])
        self.images = torch.from_numpy(np.concatenate([p.images + s for p, s in zip(parts, starts, strict=False)]))
        self.labels = torch.from_numpy(np.concatenate([part.labels for part in parts]))
        ignored = [part.ignored for part in parts if part.ignored is not None]
        self.ignored = torch.from_numpy(np.concatenate(ignored)) if ignored else None
        self.test = torch.from_numpy(test)
        self.readable = torch.ones(len(test), dtype=torch.bool)
        self.unreadable: list[str] = []
        self._cache: list[Tensor] | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.test)

    def first(self, count: int) -> Crops:
        """Return the first `count` crops of each source; these same crops if there are no more.

        Raises:
            DataError: One side of the split would be empty, or its scores would be known without features.
        """
        if all(len(part) <= count for part in self.parts):
            return self
        kept = [np.arange(len(part)) < count for part in self.parts]
        crops = Crops([part.first(count) for part in self.parts], self.test.numpy()[np.concatenate(kept)], self.table)
        _check_both_sides(crops)
        return crops

    def one_sided_categories(self) -> str:
        """Name the categories with crops on one side of the split only; return "" if there are none.

        A category with a single crop is always among them. With sets of labels the result is always "".
        """
        if self.labels.ndim == 2:
            return ""
        train, test = (set(self.labels[side].tolist()) for side in (~self.test, self.test))
        parts = [
            f"{len(one_sided)} {reason}: {', '.join(self.categories[n] for n in sorted(one_sided)[:5])}"
            f"{', ...' if len(one_sided) > 5 else ''}"
            for one_sided, reason in (
                (train - test, "without a test crop, not tested"),
                (test - train, "without a training crop, never predicted"),
            )
            if one_sided
        ]
        return f"of {len(train | test)} categories, " + "; ".join(parts) if parts else ""

    def batches(self, progress: Progress = no_progress) -> Iterator[Tensor]:
        """Yield uint8 pixels (b 3 s s) of all crops in order, with only a few images in memory at a time.

        Crops of images that cannot be decoded are black, and False in `readable`.
        """
        if self._cache is not None:
            yield from self._cache
            return
        small = 3 * self.table.size**2 * len(self) <= _CACHE_BYTES
        cache: list[Tensor] = []
        done = 0
        for batch in _batched(self._read()):
            done += len(batch)
            progress("probe crops", done, len(self))
            if small:
                cache.append(batch)
            yield batch
        self._cache = cache if small else None

    def _read(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the crops (n s s 3) of one image after another, and record which of them are unreadable."""
        self.unreadable, start = [], 0
        for crops, problem in self._decoded():
            stop = start + len(crops)
            if problem:
                self.unreadable.append(problem)
                self.readable[start:stop] = False
            start = stop
            yield crops

    def _decoded(self) -> Iterator[tuple[npt.NDArray[np.uint8], str]]:
        """Yield the crops of one image after another with the reason why it cannot be decoded.

        Threads decode, never more than a few images ahead.
        """
        threads = cores()
        waiting: deque[Future[tuple[npt.NDArray[np.uint8], str]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for part, index, boxes in self._images():
                    waiting.append(pool.submit(_crop, part.source, index, boxes, self.table))
                    if len(waiting) > 2 * threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _images(self) -> Iterator[tuple[CropList, int, Boxes]]:
        for part in self.parts:
            starts = np.flatnonzero(np.diff(part.images, prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(part)], strict=True):
                yield part, int(part.images[start]), part.boxes[start:stop]


def _crop(source: Source, index: int, boxes: Boxes, table: ProbeTable) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the crops of one image and ""; black crops and the reason if the image cannot be decoded."""
    try:
        image = images.decode(source.read(index), source.key(index))
    except DataError as error:
        return np.zeros((len(boxes), table.size, table.size, 3), np.uint8), str(error)
    height, width = image.shape[:2]
    if table.crops == "objects" and isinstance(source, CheckedSource):
        source.refuse_outside(index, source.objects(index).boxes if table.loosen else boxes, height, width)
    if table.fit == "centre-crop":
        half = _CENTRE_SHARE * min(height, width) / 2
        boxes = np.array([[width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half]], np.float32)
    return images.cuts(image, boxes, table.size, "bicubic"), ""


def _batched(crops: Iterator[npt.NDArray[np.uint8]]) -> Iterator[Tensor]:
    """Join the crops (n s s 3) of images into batches (b 3 s s)."""
    pending: list[npt.NDArray[np.uint8]] = []
    for crop in crops:
        pending.append(crop)
        while sum(map(len, pending)) >= _BATCH:
            joined = np.concatenate(pending)
            yield torch.from_numpy(joined[:_BATCH]).permute(0, 3, 1, 2)
            pending = [joined[_BATCH:]]
    if sum(map(len, pending)):
        yield torch.from_numpy(np.concatenate(pending)).permute(0, 3, 1, 2)


def collect_crops(source: Source, table: ProbeTable, seed: int, test_source: Source | None = None) -> Crops:
    """List the labelled crops of opened sources in a fixed random order of their images, and split them by image.

    Raises:
        DataError: There are no labels, only one training category or none with a test crop, one side of the split is
            empty, or the test source has a category that the training source lacks.
    """
    rng = generator(seed, "probe")
    train = list_crops(source, table, rng.permutation(len(source)), seed)
    _check_labels(train, table)
    if test_source is None:
        tested = rng.random(len(source)) < table.test_share
        crops = Crops([train], tested[train.images], table)
    else:
        test = list_crops(test_source, table, generator(seed, "probe", "test").permutation(len(test_source)), seed)
        if not len(test):
            raise _too_few_labels(test, table, "no")
        _refuse_shared_images(train, test)
        sides = np.repeat([False, True], [len(train), len(test)])
        crops = Crops([train, test.renumber(source.categories)], sides, table)
    _check_both_sides(crops)
    return crops


def _refuse_shared_images(train: CropList, test: CropList) -> None:
    """Refuse a test source that has training images: those with the same key and the same bytes, of a few compared."""
    tested = {test.source.key(index): index for index in np.unique(test.images).tolist()}
    both = [
        (index, tested[key]) for index in np.unique(train.images).tolist() if (key := train.source.key(index)) in tested
    ]
    compared = both[:: -(-len(both) // _MOST_COMPARED) or 1]
    same = [
        train.source.key(index) for index, other in compared if _same_bytes(train.source, index, test.source, other)
    ]
    if same:
        raise DataError(
            f"test_source shares images with the training source, where each would be its own neighbour: of "
            f"{len(both)} images with the same name, {len(compared)} were compared, and {len(same)} are the same file, "
            f"such as {same[0]}; name another split, or write test_share instead"
        )


def _same_bytes(source: Source, index: int, other: Source, other_index: int) -> bool:
    try:
        return source.read(index) == other.read(other_index)
    except DataError:  # told when its crops are read
        return False


def _check_labels(crops: CropList, table: ProbeTable) -> None:
    if crops.labels.ndim == 1 and len(np.unique(crops.labels)) < 2:
        raise _too_few_labels(crops, table, "no" if not len(crops) else "only one category of")
    if crops.labels.ndim == 2 and (not crops.labels.any() or crops.labels.shape[1] < 2):
        raise _too_few_labels(crops, table, "no")


def _too_few_labels(crops: CropList, table: ProbeTable, what: str) -> DataError:
    return DataError(
        f"a probe needs {_CROPS[table.crops]} of two categories or more; source '{crops.source.name}' gave {what} "
        f"{_CROPS[table.crops]} ({len(crops)} crops from {len(crops.source)} images): {_ADVICE[table.crops]}"
    )


def _check_both_sides(crops: Crops) -> None:
    share = crops.test.double().mean().item()
    if share in (0, 1):
        count = len(set(crops.images.tolist()))
        raise DataError(
            f"test_share = {crops.table.test_share:g} of {count} labelled images leaves nothing to "
            f"{'test' if share == 0 else 'train'} on: use more images, another share, or a test_source"
        )
    if crops.labels.ndim == 1:
        _check_categories(*(set(crops.labels[side].tolist()) for side in (~crops.test, crops.test)))


def _check_categories(train: set[int], test: set[int]) -> None:
    """Refuse a split whose scores are known without features.

    Raises:
        DataError: No category is on both sides, or there is one training category.
    """
    advice = "use more images of each category, another test_share, or a test_source"
    if not train & test:
        raise DataError(
            f"none of the {len(train | test)} categories has both a training crop and a test crop, so no answer could "
            f"be right: {advice}"
        )
    if len(train) < 2:
        raise DataError(f"all training crops are of one category, so every answer would be the same: {advice}")
