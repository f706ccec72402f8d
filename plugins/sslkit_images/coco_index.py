"""The index of COCO's annotation files: names, sizes, boxes and labels as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslkit.boxes import Boxes, from_xywh
from sslkit_images.flat_index import FlatIndex
from sslkit_images.names import NameList

VERSION = 3
"""Increase it when the same files are indexed differently."""
LEFT_OUT = (
    "crowds", "annotations without a box of at least a pixel",
    "annotations of images that are not listed",
)  # fmt: skip
"""What annotations may be without being wrong."""


@dataclass(frozen=True)
class CocoIndex(FlatIndex):
    """The n images and m objects of one split, in the order of its list of images.

    Attributes:
        text: File names, concatenated, UTF-8.
        offsets: Shape (n + 1,): where each name begins.
        sizes: Shape (n, 2): height and width in the annotations; 0 where they say nothing.
        counts: Shape (n,): number of objects of each image.
        boxes: Shape (m, 4), xyxy pixels.
        labels: Shape (m,): indices into `categories`.
        categories: Names of the categories, in the order of their ids.
        left_out: Shape (3,): numbers of annotations that are left out, in the order of `LEFT_OUT`.
    """

    text: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    boxes: Boxes
    labels: npt.NDArray[np.int64]
    categories: npt.NDArray[np.str_]
    left_out: npt.NDArray[np.int64]

    @classmethod
    def of_names(cls, names: Iterable[str]) -> CocoIndex:
        """Return the index of images without annotations."""
        listed = NameList(names)
        count = len(listed)
        return cls(
            listed.text, listed.offsets, np.zeros((count, 2), np.int32), np.zeros(count, np.int64), from_xywh([]),
            np.zeros(0, np.int64), np.array([], np.str_), np.zeros(len(LEFT_OUT), np.int64),
        )  # fmt: skip

    @property
    def names(self) -> NameList:
        """The file names."""
        names = NameList(())
        names.text, names.offsets = self.text, self.offsets
        return names
