"""Labelled crops for probes: which there are, on which side of the split, and their pixels as a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslkit import boxes, images
from sslkit.api import Progress, Source, no_progress
from sslkit.boxes import Boxes
from sslkit.errors import DataError
from sslkit.folders import cores
from sslkit.planning.recipe import ProbeTable
from sslkit.seeds import generator

_BATCH = 256
_KEPT = 2**28
"""Bytes of pixels that are kept for the next network; a larger set is read anew."""
_SHORTER_SIDE = 224 / 256
"""Share of the shorter side in the centre crop that classifiers are usually tested on."""
_ADVICE = {
    "objects": 'name a source with labelled boxes, such as "coco" with its annotations, or classify whole images: '
    'crops = "images"',
    "images": 'name a source whose images are labelled, such as "folder" with labels = true, or classify objects: '
    'crops = "objects"',
    "multi-label": 'name a source with labelled boxes, such as "coco" or "voc"',
}


@dataclass(frozen=True)
class Listing:
    """Crops of one opened source that have not been cut yet; those of one image stand together.

    Attributes:
        images: Shape (n,): indices into the source.
        boxes: Shape (n, 4), xyxy pixels; infinite where the whole image is meant.
        labels: Shape (n,), int64, or (n, c), bool.
        ignored: Shape (n, c), bool, beside sets of labels.
    """

    source: Source
    images: npt.NDArray[np.int64]
    boxes: Boxes
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.images)

    def renamed(self, categories: Sequence[str]) -> Listing:
        """Number the labels as in `categories`, those of the training images.

        Raises:
            DataError: A category is not among them.
        """
        own = list(self.source.categories)
        if own == list(categories):
            return self
        strangers = sorted(set(own) - set(categories))
        if strangers:
            raise DataError(
                f"{len(strangers)} categories of the test source '{self.source.name}' are not among the "
                f"{len(categories)} of the training images: {', '.join(strangers[:5])}"
                f"{', ...' if len(strangers) > 5 else ''}"
            )
        places = np.array([list(categories).index(name) for name in own], np.int64)
        if self.labels.ndim == 1:
            return replace(self, labels=places[self.labels])
        assert self.ignored is not None
        return replace(
            self, labels=_spread(self.labels, places, categories), ignored=_spread(self.ignored, places, categories)
        )


def _spread(
    columns: npt.NDArray[np.generic], places: npt.NDArray[np.int64], categories: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Put columns (n own) at their places among all categories (n c)."""
    made = np.zeros((len(columns), len(categories)), np.bool_)
    made[:, places] = columns
    return made


def listing(source: Source, table: ProbeTable, order: Sequence[int] | npt.NDArray[np.int64]) -> Listing:
    """List the labelled crops of a source, image after image in this order, up to the table's limit."""
    width = len(source.categories)
    rows: list[tuple[int, Boxes, npt.NDArray[np.generic], npt.NDArray[np.bool_]]] = []
    count = 0
    for index in map(int, order):
        cut, labels, ignored = _of_image(source, index, table, width)
        rows.append((index, cut, labels, ignored))
        count += len(cut)
        if table.limit and count >= table.limit:
            break
    found = slice(table.limit)
    indices = [np.full(len(cut), index, np.int64) for index, cut, _, _ in rows]
    several = table.labels == "multi-label"
    nothing = np.zeros((0, width), np.bool_) if several else np.zeros(0, np.int64)
    return Listing(
        source,
        np.concatenate([np.zeros(0, np.int64), *indices])[found],
        np.concatenate([boxes.empty(), *(row[1] for row in rows)])[found],
        np.concatenate([nothing, *(row[2] for row in rows)])[found],
        np.concatenate([nothing, *(row[3] for row in rows)])[found] if several else None,
    )


def _of_image(
    source: Source, index: int, table: ProbeTable, width: int
) -> tuple[Boxes, npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Return boxes (n 4), labels (n) or (n c), and what is ignored (n c) of one image; (0 c) beside one label each."""
    whole = np.array([[0, 0, np.inf, np.inf]], np.float32)
    if table.crops == "images":
        label = source.label(index)
        known = [] if label is None else [label]
        return whole[: len(known)], np.array(known, np.int64), np.zeros((0, width), np.bool_)
    objects = source.objects(index)
    clear = np.ones(len(objects.labels), np.bool_) if objects.difficult is None else ~objects.difficult
    if table.crops == "objects":
        keep = clear & (boxes.sides(objects.boxes).min(axis=1, initial=np.inf) >= table.min_side)
        return objects.boxes[keep], objects.labels[keep], np.zeros((0, width), np.bool_)
    there, unclear = np.zeros((1, width), np.bool_), np.zeros((1, width), np.bool_)
    there[0, objects.labels[clear]] = True
    unclear[0, objects.labels[~clear]] = True
    labelled = len(objects.labels) > 0  # an image without objects may just not have been annotated
    return whole[:labelled], there[:labelled], (unclear & ~there)[:labelled]


class Crops:
    """Labelled square crops of one source, or of one to train and one to test on, cut while they are read.

    Attributes:
        labels: int64 (n), or bool (n c).
        images: int64 (n), the image that each comes from.
        test: bool (n); no image is on both sides.
        readable: bool (n); which images cannot be decoded is known once they have been read.
        unreadable: What is wrong with those, a line each.
    """

    def __init__(self, parts: Sequence[Listing], test: npt.NDArray[np.bool_], table: ProbeTable) -> None:
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
        self._kept: list[Tensor] | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.test)

    def one_sided(self) -> str:
        """Say which categories have crops on one side of the split only; empty when none has, or with sets of labels.

        A category with one example is always among them.
        """
        if self.labels.ndim == 2:
            return ""
        sides = [set(self.labels[side].tolist()) for side in (~self.test, self.test)]
        words = [
            f"{len(lacking)} {what}: {', '.join(self.categories[n] for n in sorted(lacking)[:5])}"
            f"{', ...' if len(lacking) > 5 else ''}"
            for lacking, what in (
                (sides[0] - sides[1], "not tested, having no test crop"),
                (sides[1] - sides[0], "never right, having no training crop"),
            )
            if lacking
        ]
        return f"of {len(sides[0] | sides[1])} categories, " + "; ".join(words) if words else ""

    def batches(self, progress: Progress = no_progress) -> Iterator[Tensor]:
        """Yield uint8 pixels (b 3 s s) of all crops in order, holding a few images at a time.

        Those of images that cannot be decoded are black, and marked in `readable`.
        """
        if self._kept is not None:
            yield from self._kept
            return
        small = 3 * self.table.size**2 * len(self) <= _KEPT
        kept: list[Tensor] = []
        done = 0
        for batch in _batched(self._cut()):
            done += len(batch)
            progress("probe crops", done, len(self))
            if small:
                kept.append(batch)
            yield batch
        self._kept = kept if small else None

    def _cut(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the crops (n s s 3) of image after image, and mark those that are unreadable."""
        self.unreadable, start = [], 0
        for crops, problem in self._decoded():
            stop = start + len(crops)
            if problem:
                self.unreadable.append(problem)
                self.readable[start:stop] = False
            start = stop
            yield crops

    def _decoded(self) -> Iterator[tuple[npt.NDArray[np.uint8], str]]:
        """Yield the crops of image after image, decoded by threads that are never far ahead, and what is wrong."""
        threads = cores()
        waiting: deque[Future[tuple[npt.NDArray[np.uint8], str]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for part, index, cut in self._images():
                    waiting.append(pool.submit(_crops, part.source, index, cut, self.table))
                    if len(waiting) > 2 * threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _images(self) -> Iterator[tuple[Listing, int, Boxes]]:
        for part in self.parts:
            starts = np.flatnonzero(np.diff(part.images, prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(part)], strict=True):
                yield part, int(part.images[start]), part.boxes[start:stop]


def _crops(source: Source, index: int, cut: Boxes, table: ProbeTable) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the crops of one image, or black ones and what is wrong with it."""
    try:
        image = images.decode(source.read(index), source.key(index))
    except DataError as error:
        return np.zeros((len(cut), table.size, table.size, 3), np.uint8), str(error)
    if table.fit == "centre-crop":
        height, width = image.shape[:2]
        half = _SHORTER_SIDE * min(height, width) / 2
        cut = np.array([[width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half]], np.float32)
    return images.cuts(image, cut, table.size, "bicubic"), ""


def _batched(crops: Iterator[npt.NDArray[np.uint8]]) -> Iterator[Tensor]:
    """Join the crops (n s s 3) of images into batches (b 3 s s)."""
    held: list[npt.NDArray[np.uint8]] = []
    for crop in crops:
        held.append(crop)
        while sum(map(len, held)) >= _BATCH:
            joined = np.concatenate(held)
            yield torch.from_numpy(joined[:_BATCH]).permute(0, 3, 1, 2)
            held = [joined[_BATCH:]]
    if sum(map(len, held)):
        yield torch.from_numpy(np.concatenate(held)).permute(0, 3, 1, 2)


def gather(source: Source, table: ProbeTable, seed: int, test_source: Source | None = None) -> Crops:
    """List the labelled crops of opened sources in a fixed random order of their images, and split them by image.

    Raises:
        DataError: There are no labels or only one category, nothing to train or to test on, or the test source has
            categories of its own.
    """
    rng = generator(seed, "probe")
    train = listing(source, table, rng.permutation(len(source)))
    _refuse_unlabelled(train, table)
    if test_source is None:
        tested = rng.random(len(source)) < table.test_share
        made = Crops([train], tested[train.images], table)
    else:
        test = listing(test_source, table, generator(seed, "probe", "test").permutation(len(test_source)))
        if not len(test):
            _refuse(test, table, "no")
        sides = np.repeat([False, True], [len(train), len(test)])
        made = Crops([train, test.renamed(source.categories)], sides, table)
    _refuse_one_sided(made)
    return made


def _refuse_unlabelled(found: Listing, table: ProbeTable) -> None:
    if found.labels.ndim == 1 and len(np.unique(found.labels)) < 2:
        _refuse(found, table, "no" if not len(found) else "only one category of")
    if found.labels.ndim == 2 and (not found.labels.any() or found.labels.shape[1] < 2):
        _refuse(found, table, "no")


def _refuse(found: Listing, table: ProbeTable, what: str) -> None:
    kind = {"objects": "labelled objects", "images": "labelled images", "multi-label": "images with labelled objects"}
    raise DataError(
        f"a probe needs {kind[table.crops]} of two categories or more; source '{found.source.name}' gave {what} "
        f"{kind[table.crops]} ({len(found)} crops from {len(found.source)} images): {_ADVICE[table.crops]}"
    )


def _refuse_one_sided(crops: Crops) -> None:
    share = crops.test.double().mean().item()
    if share in (0, 1):
        counted = len(set(crops.images.tolist()))
        raise DataError(
            f"test_share = {crops.table.test_share:g} of {counted} labelled images leaves nothing to "
            f"{'test' if share == 0 else 'train'} on: use more images, another share, or a test_source"
        )
