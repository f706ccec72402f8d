"""List the labelled crops of a source, without reading any pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sslkit import boxes
from sslkit.api import Source
from sslkit.boxes import Boxes
from sslkit.errors import DataError
from sslkit.planning.recipe import ProbeTable
from sslkit.probes.loosen import loosen


@dataclass(frozen=True)
class CropList:
    """The labelled crops of one opened source; the crops of one image are adjacent.

    Attributes:
        images: Shape (n,): indices into the source.
        boxes: Shape (n, 4), xyxy pixels; infinite for a whole image.
        labels: Shape (n,), int64: one category each; or (n, c), bool: a set of categories each.
        ignored: Shape (n, c), bool, with sets of labels only: categories that count neither way.
    """

    source: Source
    images: npt.NDArray[np.int64]
    boxes: Boxes
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.images)

    def first(self, count: int) -> CropList:
        """Return the list up to `count` crops: what listing with this limit gives."""
        ignored = None if self.ignored is None else self.ignored[:count]
        return CropList(self.source, self.images[:count], self.boxes[:count], self.labels[:count], ignored)

    def renumber(self, categories: Sequence[str]) -> CropList:
        """Return the list with labels that are indices into `categories`, those of the training images.

        Raises:
            DataError: The source has a category that is not among them.
        """
        names = list(self.source.categories)
        if names == list(categories):
            return self
        unknown = sorted(set(names) - set(categories))
        if unknown:
            raise DataError(
                f"{len(unknown)} categories of the test source '{self.source.name}' are not among the "
                f"{len(categories)} of the training images: {', '.join(unknown[:5])}"
                f"{', ...' if len(unknown) > 5 else ''}"
            )
        positions = np.array([list(categories).index(name) for name in names], np.int64)
        if self.labels.ndim == 1:
            return replace(self, labels=positions[self.labels])
        assert self.ignored is not None
        width = len(categories)
        return replace(
            self, labels=_spread(self.labels, positions, width), ignored=_spread(self.ignored, positions, width)
        )


def _spread(columns: npt.NDArray[np.generic], positions: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """Move columns (n c) to their positions in an array (n width) that is False elsewhere."""
    spread = np.zeros((len(columns), width), np.bool_)
    spread[:, positions] = columns
    return spread


def list_crops(
    source: Source, table: ProbeTable, order: Sequence[int] | npt.NDArray[np.int64], seed: int
) -> CropList:  # fmt: skip
    """List the labelled crops of a source, image by image in the given order, up to the limit in the probe's table.

    Args:
        source: The opened source.
        table: The probe's table.
        order: Indices of images.
        seed: The recipe's seed, which decides how boxes are loosened.
    """
    width = len(source.categories)
    rows: list[tuple[int, Boxes, npt.NDArray[np.generic], npt.NDArray[np.bool_]]] = []
    count = 0
    for index in map(int, order):
        image_boxes, labels, ignored = _crops_of_image(source, index, table, width, seed)
        rows.append((index, image_boxes, labels, ignored))
        count += len(image_boxes)
        if table.limit and count >= table.limit:
            break
    limit = slice(table.limit)
    indices = [np.full(len(image_boxes), index, np.int64) for index, image_boxes, _, _ in rows]
    multi_label = table.labels == "multi-label"
    no_labels = np.zeros((0, width), np.bool_) if multi_label else np.zeros(0, np.int64)
    return CropList(
        source,
        np.concatenate([np.zeros(0, np.int64), *indices])[limit],
        np.concatenate([boxes.empty(), *(row[1] for row in rows)])[limit],
        np.concatenate([no_labels, *(row[2] for row in rows)])[limit],
        np.concatenate([no_labels, *(row[3] for row in rows)])[limit] if multi_label else None,
    )


def _crops_of_image(
    source: Source, index: int, table: ProbeTable, width: int, seed: int
) -> tuple[Boxes, npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Return the boxes (n 4), labels and ignored categories of one image.

    Labels have shape (n) and ignored categories (0 c) with one label each; both have shape (n c) with sets of labels.
    """
    image_box = np.array([[0, 0, np.inf, np.inf]], np.float32)
    if table.crops == "images":
        label = source.label(index)
        labels = [] if label is None else [label]
        return image_box[: len(labels)], np.array(labels, np.int64), np.zeros((0, width), np.bool_)
    objects = source.objects(index)
    clear = np.ones(len(objects.labels), np.bool_) if objects.difficult is None else ~objects.difficult
    if table.crops == "objects":
        keep = clear & (boxes.sides(objects.boxes).min(axis=1, initial=np.inf) >= table.min_side)
        object_boxes = objects.boxes[keep]
        if table.loosen:
            object_boxes = loosen(object_boxes, np.flatnonzero(keep), table.loosen, seed, source.key(index))
        return object_boxes, objects.labels[keep], np.zeros((0, width), np.bool_)
    present, unclear = np.zeros((1, width), np.bool_), np.zeros((1, width), np.bool_)
    present[0, objects.labels[clear]] = True
    unclear[0, objects.labels[~clear]] = True
    annotated = len(objects.labels) > 0  # an image without objects may just not have been annotated
    return image_box[:annotated], present[:annotated], (unclear & ~present)[:annotated]
