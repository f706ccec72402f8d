"""Raw regions from the JSON files that ORL's authors published, into the store of a source."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from sslkit.api import Progress, Proposer, Source
from sslkit.errors import DataError, UsageError
from sslkit_proposals import shards
from sslkit_proposals.build import select_all
from sslkit_proposals.files import encoded, number
from sslkit_proposals.search import IntBoxes
from sslkit_proposals.selective import SelectiveSearch
from sslkit_proposals.shards import IMPORTED, Found, join
from sslkit_proposals.store import Store
from sslkit_proposals.stream import elements

TOLERATED = 0.01
"""Share of images whose boxes may lie outside before the order is taken to be wrong."""


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        images: Images of the source that got their regions from the file.
        left: Images that did not, and are to be searched: key and why.
    """

    images: int
    left: Sequence[str]


def import_orl(
    source: Source,
    proposer: Proposer,
    files: Sequence[Path],
    annotations: Sequence[Path],
    progress: Progress,
) -> Imported:
    """Write the raw regions in ORL's proposal files into the store, as if they had been searched.

    A file is one object, `{"bbox": [[[x, y, w, h], ...], ...]}`: per image a list of boxes, or a single flat box,
    and no file names. Its images are in the order of `"images"` in COCO's annotation file; several files follow each
    other.

    Args:
        source: Opened.
        proposer: Whose store is filled; its search must be the files': fast, at full resolution.
        files: ORL's JSON files.
        annotations: COCO's annotation files, to find images by name. Without them, the n-th image of the files is
            taken to be the n-th image of the source.
        progress: Told about files and images.

    Raises:
        UsageError: The proposer searches in another way.
        DataError: A file cannot be read, or its boxes do not fit the images.
    """
    proposer = _protocol(proposer)
    store = proposer.store(source)
    store.describe(source, {"source": source.name, "imported": [path.name for path in files]})
    with tempfile.TemporaryFile(dir=store.folder) as spool:
        offsets = _spool(files, spool, progress)
        boxes = (
            np.memmap(spool, np.int32, "r", shape=(int(offsets[-1]), 4)) if offsets[-1] else np.zeros((0, 4), np.int32)
        )
        places = _by_name(source, annotations) if annotations else _by_number(source, len(offsets) - 1)
        left = _write(source, store, _Regions(boxes, offsets, places), progress)
    if not left:
        select_all(store, proposer.rules, 1, progress)
    return Imported(len(source) - len(left), left)


def _protocol(proposer: Proposer) -> SelectiveSearch:
    """Refuse a proposer that would not have found what the files hold."""
    if not isinstance(proposer, SelectiveSearch):
        raise UsageError(f"only 'selective-search' has a store to import into, not '{proposer.name}'")
    search = proposer.search
    if (search.mode, search.working_side) != ("fast", None):
        raise UsageError(
            'ORL\'s files hold regions of mode = "fast" at full resolution, but this proposer has'
            f' mode = "{search.mode}", working_side = {search.working_side or "full"}:'
            ' write mode = "fast", working_side = "full" in [proposals] of the recipe'
        )
    return proposer


def _spool(files: Sequence[Path], spool: Any, progress: Progress) -> npt.NDArray[np.int64]:
    """Write all boxes, xyxy, into one flat file; return where each image's begin."""
    counts = [0]
    for path in files:
        for image, raw in enumerate(elements(path, "bbox")):
            boxes = _xyxy(path, image, raw)
            spool.write(boxes.astype(np.int32).tobytes())
            counts.append(len(boxes))
            if image % 1000 == 0:
                progress(f"reading {path.name}", image, 0)
    spool.flush()
    return np.cumsum(counts, dtype=np.int64)


def _mapped(spool: Any, count: int) -> npt.NDArray[np.int32]:
    if not count:
        return np.zeros((0, 4), np.int32)  # an empty file cannot be mapped
    return np.memmap(spool, np.int32, "r", shape=(count, 4))


def _xyxy(path: Path, image: int, raw: Any) -> IntBoxes:
    """Convert one image's boxes; a single box may come flat."""
    try:
        boxes = np.array(raw, np.int64).reshape(-1, 4)
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"{path}: image {image} should be a list of [x, y, w, h], not {str(raw)[:80]}") from None
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _by_number(source: Source, listed: int) -> Sequence[int]:
    if listed != len(source):
        raise DataError(
            f"the proposal files hold {listed} images, the source {len(source)}: give the annotation file whose order"
            " they have (--annotations instances_train2017.json), so that images are found by name"
        )
    return range(listed)


def _by_name(source: Source, annotations: Sequence[Path]) -> Sequence[int]:
    """Return each image's place in the files, or -1."""
    names = (image["file_name"] for path in annotations for image in elements(path, "images"))
    places = {PurePosixPath(name).name: place for place, name in enumerate(names)}
    return [places.get(PurePosixPath(source.key(index)).name, -1) for index in range(len(source))]


@dataclass(frozen=True)
class _Regions:
    """Boxes of the files, by index of the source."""

    boxes: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    places: Sequence[int]

    def get(self, index: int) -> IntBoxes | None:
        place = self.places[index]
        if not 0 <= place < len(self.offsets) - 1:
            return None
        return self.boxes[self.offsets[place] : self.offsets[place + 1]].astype(np.int64)


def _write(source: Source, store: Store, regions: _Regions, progress: Progress) -> list[str]:
    """Write the shards, once all are known to fit; return what is left to be searched, and why."""
    with tempfile.TemporaryDirectory(dir=store.folder) as aside:
        left: list[str] = []
        for part in store.parts:
            rows = [_row(source, index, regions.get(index)) for index in store.members(part)]
            left += [row.reason for row in rows if row.reason]
            shards.save(Path(aside) / store.path(part).name, join(rows))
            progress("checking photos", store.members(part).stop, len(source))
        _refuse_misfits(left, len(source))
        store.path(0).parent.mkdir(exist_ok=True)
        for part in store.parts:
            (Path(aside) / store.path(part).name).replace(store.path(part))
    return left


MISFIT = "boxes reach outside"


def _row(source: Source, index: int, boxes: IntBoxes | None) -> Found:
    """Join an image with its boxes; a reason marks it for the search."""
    from sslkit.images import upright_size

    name = source.key(index)
    key = number(encoded(name))
    if boxes is None:
        return Found(key, 0, 0, 0, None, f"{name}: not in the proposal files")
    try:
        data = source.read(index)
        height, width = upright_size(data, name)
    except (DataError, OSError) as error:
        return Found(key, 0, 0, 0, None, f"{name}: {error}")
    right, low = boxes[:, 2:].max(axis=0, initial=0)
    if boxes.min(initial=0) < 0 or right > width or low > height:
        return Found(key, 0, 0, 0, None, f"{name}: {MISFIT} its {width} x {height} pixels, up to ({right}, {low})")
    return Found(key, number(data), height, width, boxes, "", IMPORTED)


def _refuse_misfits(left: Sequence[str], images: int) -> None:
    misfits = [reason for reason in left if MISFIT in reason]
    if len(misfits) > TOLERATED * images:
        raise DataError(
            f"{len(misfits)} of {images} images are smaller than their boxes, so the files are in another order than"
            f" the source; give the annotation file whose order they have (--annotations). The first: {misfits[0]}"
        )


def summary(imported: Imported) -> Iterator[str]:
    """Say what an import did."""
    yield f"{imported.images} images imported"
    if imported.left:
        yield f"{len(imported.left)} images are left to be searched by `sslkit proposals build`:"
        yield from (f"  {reason}" for reason in imported.left[:10])
