"""Import raw regions from the JSON files that ORL's authors published into the store of a source."""

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
from sslkit.files import EncodingError
from sslkit.json_records import JsonError, read_records
from sslkit_proposals.build import select_all
from sslkit_proposals.files import encode_name, hash_bytes
from sslkit_proposals.search import IntBoxes
from sslkit_proposals.selective import SelectiveSearch
from sslkit_proposals.shards import IMPORTED, ImageRegions, join, save_shard
from sslkit_proposals.store import Store

TOLERATED = 0.01
"""Share of images with boxes outside the image, above which the files are assumed to be in another order."""


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
        images: Number of images with regions from the files.
        remaining: Key and reason of each image that still has to be searched.
    """

    images: int
    remaining: Sequence[str]


def import_orl(
    source: Source,
    proposer: Proposer,
    files: Sequence[Path],
    annotations: Sequence[Path],
    progress: Progress,
) -> ImportResult:
    """Write the raw regions of ORL's proposal files to the store, as if the images had been searched.

    A file is one object, `{"bbox": [[[x, y, w, h], ...], ...]}`: a list of boxes per image, or a single flat box, and
    no file names. The images are in the order of `"images"` in COCO's annotation file. Several files are concatenated.

    Args:
        source: An opened source.
        proposer: The proposer whose store is filled. Its search must match the files: fast, at full resolution.
        files: ORL's JSON files.
        annotations: COCO's annotation files, to match images by name. Without them, the n-th image of the files is
            the n-th image of the source.
        progress: Called with the progress over files and images.

    Raises:
        UsageError: The proposer's search differs from that of the files.
        DataError: A file cannot be read, or its boxes do not fit the images.
    """
    proposer = _require_protocol(proposer)
    store = proposer.store(source)
    store.describe(source, {"source": source.name, "imported": [path.name for path in files]})
    with tempfile.TemporaryFile(dir=store.folder) as spool:
        offsets = _spool(files, spool, progress)
        boxes = _map_boxes(spool, int(offsets[-1]))
        places = _by_name(source, annotations) if annotations else _by_number(source, len(offsets) - 1)
        remaining = _write(source, store, _Regions(boxes, offsets, places), progress)
    if not remaining:
        select_all(store, proposer.rules, 1, progress)
    return ImportResult(len(source) - len(remaining), remaining)


def _require_protocol(proposer: Proposer) -> SelectiveSearch:
    """Return the proposer; refuse one whose search would not find the regions in the files."""
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
    """Write all boxes (xyxy) to one flat file; return the offsets (n + 1) of the images in it."""
    counts = [0]
    for path in files:
        for image, raw in enumerate(_elements(path, "bbox")):
            boxes = _xyxy(path, image, raw)
            spool.write(boxes.astype(np.int32).tobytes())
            counts.append(len(boxes))
            if image % 1000 == 0:
                progress(f"reading {path.name}", image, 0)
    spool.flush()
    return np.cumsum(counts, dtype=np.int64)


def _elements(path: Path, key: str) -> Iterator[Any]:
    """Yield the elements of an array in a JSON file of any size."""
    try:
        for record in read_records(path, {key}, {key}):
            yield record.value
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (EncodingError, JsonError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _map_boxes(spool: Any, count: int) -> npt.NDArray[np.int32]:
    if not count:
        return np.zeros((0, 4), np.int32)  # an empty file cannot be mapped
    return np.memmap(spool, np.int32, "r", shape=(count, 4))


def _xyxy(path: Path, image: int, raw: Any) -> IntBoxes:
    """Convert the boxes of one image to xyxy; a single box may be flat."""
    try:
        boxes = np.array(raw, np.int64).reshape(-1, 4)
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"{path}: image {image} should be a list of [x, y, w, h], not {str(raw)[:80]}") from None
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _by_number(source: Source, count: int) -> Sequence[int]:
    if count != len(source):
        raise DataError(
            f"the proposal files hold {count} images, but the source has {len(source)}: pass the annotation file whose"
            " order they follow (--annotations instances_train2017.json), so that images are matched by name"
        )
    return range(count)


def _by_name(source: Source, annotations: Sequence[Path]) -> Sequence[int]:
    """Return the position of each image in the files, or -1."""
    places: dict[str, int] = {}
    for path in annotations:
        for number, image in enumerate(_elements(path, "images")):
            name = image.get("file_name") if isinstance(image, dict) else None
            if not isinstance(name, str):
                raise DataError(f"{path}: images[{number}] has no file_name: {str(image)[:80]}")
            if PurePosixPath(name).name in places:
                raise DataError(f"{path}: images[{number}] has the file_name '{name}', which another image has")
            places[PurePosixPath(name).name] = len(places)
    return [places.get(PurePosixPath(source.key(index)).name, -1) for index in range(len(source))]


@dataclass(frozen=True)
class _Regions:
    """The boxes of the files, indexed like the source."""

    boxes: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    places: Sequence[int]

    def get(self, index: int) -> IntBoxes | None:
        place = self.places[index]
        if not 0 <= place < len(self.offsets) - 1:
            return None
        return self.boxes[self.offsets[place] : self.offsets[place + 1]].astype(np.int64)


def _write(source: Source, store: Store, regions: _Regions, progress: Progress) -> list[str]:
    """Write the shards after checking that all boxes fit; return the images that remain to be searched, and why."""
    with tempfile.TemporaryDirectory(dir=store.folder) as temporary:
        remaining: list[str] = []
        for part in store.parts:
            rows = [_row(source, index, regions.get(index)) for index in store.members(part)]
            remaining += [row.reason for row in rows if row.reason]
            save_shard(Path(temporary) / store.path(part).name, join(rows))
            progress("checking images", store.members(part).stop, len(source))
        _refuse_misfits(remaining, len(source))
        store.path(0).parent.mkdir(exist_ok=True)
        for part in store.parts:
            (Path(temporary) / store.path(part).name).replace(store.path(part))
    return remaining


MISFIT = "boxes reach outside"


def _row(source: Source, index: int, boxes: IntBoxes | None) -> ImageRegions:
    """Combine an image with its boxes; a reason marks it for the search."""
    from sslkit.images import upright_size

    name = source.key(index)
    key = hash_bytes(encode_name(name))
    if boxes is None:
        return ImageRegions(key, 0, 0, 0, None, f"{name}: not in the proposal files")
    try:
        data = source.read(index)
        height, width = upright_size(data, name)
    except (DataError, OSError) as error:
        return ImageRegions(key, 0, 0, 0, None, f"{name}: {error}")
    right, bottom = boxes[:, 2:].max(axis=0, initial=0)
    if boxes.min(initial=0) < 0 or right > width or bottom > height:
        return ImageRegions(
            key, 0, 0, 0, None, f"{name}: {MISFIT} its {width} x {height} pixels, up to ({right}, {bottom})"
        )
    return ImageRegions(key, hash_bytes(data), height, width, boxes, "", IMPORTED)


def _refuse_misfits(remaining: Sequence[str], images: int) -> None:
    misfits = [reason for reason in remaining if MISFIT in reason]
    if len(misfits) > TOLERATED * images:
        raise DataError(
            f"{len(misfits)} of {images} images are smaller than their boxes, so the files are in another order than"
            f" the source; pass the annotation file whose order they follow (--annotations). First: {misfits[0]}"
        )


def summary(result: ImportResult) -> Iterator[str]:
    """Summarise an import in a few lines."""
    yield f"{result.images} images imported"
    if result.remaining:
        yield f"{len(result.remaining)} images remain to be searched by `sslkit proposals build`:"
        yield from (f"  {reason}" for reason in result.remaining[:10])
