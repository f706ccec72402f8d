"""Raw regions of consecutive images in one file, the unit in which a search is saved and resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from sslkit.files import load_cache, replace_file
from sslkit_proposals.search import IntBoxes

SEARCHED, IMPORTED = 0, 1
"""Origins of regions."""


class ImageRegions(NamedTuple):
    """The raw regions of one image.

    Attributes:
        key: Hash of the image's key.
        content: Hash of its encoded bytes; 0 if they cannot be read.
        height: Height of the upright image; 0 if it cannot be decoded.
        width: Width of the upright image; 0 if it cannot be decoded.
        boxes: Its regions; None if they are already stored under this content, or if the image failed.
        reason: Why the image failed, or an empty string.
        origin: SEARCHED or IMPORTED.
    """

    key: int
    content: int
    height: int
    width: int
    boxes: IntBoxes | None
    reason: str = ""
    origin: int = SEARCHED


@dataclass(frozen=True, eq=False)
class Shard:
    """Raw regions of n images. Fields as in `ImageRegions`, with flat boxes (m, 4) and offsets (n + 1) into them."""

    keys: npt.NDArray[np.uint64]
    contents: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int32]
    origins: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, index: int) -> ImageRegions:
        """Return the regions of one image."""
        height, width = (int(side) for side in self.sizes[index])
        boxes = self.boxes[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)
        hashes = int(self.keys[index]), int(self.contents[index])
        return ImageRegions(*hashes, height, width, boxes, self.reasons[index], int(self.origins[index]))

    def same(self, other: Shard) -> bool:
        """Return whether both shards hold the same images with the same numbers of regions."""
        arrays = ("keys", "contents", "offsets", "origins")
        equal = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays)
        return equal and self.reasons == other.reasons


def join(rows: Sequence[ImageRegions]) -> Shard:
    """Join the regions of images into a shard; images without boxes get none."""
    boxes = [row.boxes if row.boxes is not None else np.zeros((0, 4), np.int64) for row in rows]
    return Shard(
        keys=np.array([row.key for row in rows], np.uint64),
        contents=np.array([row.content for row in rows], np.uint64),
        sizes=np.array([(row.height, row.width) for row in rows], np.int32).reshape(-1, 2),
        origins=np.array([row.origin for row in rows], np.uint8),
        offsets=np.cumsum([0, *map(len, boxes)], dtype=np.int64),
        boxes=compact(np.concatenate([np.zeros((0, 4), np.int64), *boxes])),
        reasons=tuple(row.reason for row in rows),
    )


def compact(boxes: IntBoxes) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
    """Store pixels in two bytes if they fit, else in four."""
    return boxes.astype(np.uint16) if boxes.max(initial=0) < 1 << 16 else boxes.astype(np.uint32)


_WHAT = "a file of regions"
ARRAYS = ("keys", "contents", "sizes", "origins", "offsets", "boxes")


def save_shard(path: Path, shard: Shard) -> None:
    """Write a shard.

    Raises:
        StorageError: It cannot be written.
    """
    reasons = np.frombuffer(json.dumps(shard.reasons).encode(), np.uint8)
    with replace_file(path) as part, part.open("xb") as file:
        np.savez(file, reasons=reasons, **{name: getattr(shard, name) for name in ARRAYS})


class ShardSummary(NamedTuple):
    """A shard without its boxes and keys."""

    contents: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int32]
    origins: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    reasons: tuple[str, ...]


EMPTY_SUMMARY = ShardSummary(
    np.zeros(0, np.uint64), np.zeros((0, 2), np.int32), np.zeros(0, np.uint8), np.zeros(1, np.int64), ()
)


def load_summary(path: Path) -> ShardSummary:
    """Read a shard without its boxes; return an empty summary if it is missing or damaged."""

    def read(file: IO[bytes]) -> ShardSummary:
        with np.load(file, allow_pickle=False) as arrays:
            reasons = tuple(json.loads(arrays["reasons"].tobytes()))
            return ShardSummary(arrays["contents"], arrays["sizes"], arrays["origins"], arrays["offsets"], reasons)

    return load_cache(path, _WHAT, read) or EMPTY_SUMMARY


def load_shard(path: Path) -> Shard | None:
    """Read a shard; return None if it is missing or damaged, so that it is made again."""

    def read(file: IO[bytes]) -> Shard:
        with np.load(file, allow_pickle=False) as arrays:
            reasons = tuple(json.loads(arrays["reasons"].tobytes()))
            return Shard(reasons=reasons, **{name: arrays[name] for name in ARRAYS})

    return load_cache(path, _WHAT, read)
