"""The source `coco`: COCO's images, with boxes and labels if the annotations have them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sslkit.api import Objects, Source
from sslkit.errors import DataError
from sslkit.files import load_cache, save_cache
from sslkit.folders import cache_dir
from sslkit_images.coco_annotations import read_index
from sslkit_images.coco_index import LEFT_OUT, VERSION, CocoIndex
from sslkit_images.folder import SUFFIXES, find_optional, read_file
from sslkit_images.frames import Frame, place
from sslkit_images.names import NameList, abbreviate

_URL = "http://images.cocodataset.org"
_ANNOTATIONS = {
    "train2017": "annotations_trainval2017",
    "val2017": "annotations_trainval2017",
    "unlabeled2017": "image_info_unlabeled2017",
}


class Coco(Source):
    """COCO 2017, its unlabelled images, or both (COCO+).

    Images keep the order of the annotation file, which is the order of ORL's published proposals. The list of images
    comes from image_info_SPLIT.json if it exists, else from instances_SPLIT.json, else from the folder. All records are
    checked when the files are indexed; crowds and annotations without a box are left out. An object of which less than
    a pixel lies in its image is left out, too. The categories of two splits are joined by name.

    Args:
        root: The folder that holds SPLIT/ and annotations/.
        split: "train2017+unlabeled2017" is COCO+.
        frame: Which pixels boxes count if EXIF turns an image: those of the image as it is "stored", or of the
            "upright" one. "auto" decides by the width and height in the annotations, and refuses an image whose
            annotations do not tell. An image with objects and neither of the two sizes is refused in any case.
    """

    name = "coco"
    reads_in_threads = True

    def __init__(
        self, *, root: Path = Path("data/coco"),
        split: Literal["train2017", "val2017", "unlabeled2017", "train2017+unlabeled2017"] = "train2017",
        frame: Frame = "auto",
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.split = split
        self.frame = frame
        self.categories: Sequence[str] = ()

    @property
    def splits(self) -> list[str]:
        """The splits to read, in order."""
        return self.split.split("+")

    def missing(self) -> str | None:
        """Return an error message if a folder is missing, with the commands that download it."""
        missing = [split for split in self.splits if not (self.root / split).is_dir()]
        if not missing:
            return None
        lines = [line for split in missing for line in self._commands(split)]
        folders = " and ".join(str((self.root / split).absolute()) for split in missing)
        commands = "\n        ".join(lines)
        return f"COCO not found (looked for {folders}); download it with\n        {commands}"

    def _commands(self, split: str) -> list[str]:
        lines = []
        for archive, kind in ((split, "zips"), (_ANNOTATIONS[split], "annotations")):
            lines.append(f"curl --create-dirs -o {self.root}/{archive}.zip {_URL}/{kind}/{archive}.zip")
            lines.append(f"unzip -q {self.root}/{archive}.zip -d {self.root}")
        return lines

    def open(self) -> None:
        """Index images and boxes. The contents of annotation files are cached.

        Raises:
            DataError: A folder or an image that the annotations list is missing, or annotations are invalid.
        """
        if missing := self.missing():
            raise DataError(missing)
        parts = [self._index(split) for split in self.splits]
        self._names = NameList(f"{split}/{name}" for split, names in self._listed(parts) for name in names)
        self._sizes = np.concatenate([part.sizes for part in parts])
        self._boxes = np.concatenate([part.boxes for part in parts])
        self.categories, labels = _join_categories(parts)
        self._labels = np.concatenate(labels)
        self._offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.counts for part in parts]))])
        self._left_out = sum((part.left_out for part in parts), np.zeros(len(LEFT_OUT), np.int64))
        self._check_files()

    def _listed(self, parts: Sequence[CocoIndex]) -> Iterator[tuple[str, Iterator[str]]]:
        for split, part in zip(self.splits, parts, strict=True):
            names = part.names
            yield split, (names[index] for index in range(len(names)))

    def _check_files(self) -> None:
        """Check that the folders hold every listed image."""
        if not len(self):
            raise DataError(f"no images found in {', '.join(str(self.root / split) for split in self.splits)}")
        files = {f"{split}/{path.name}" for split in self.splits for path in (self.root / split).iterdir()}
        names = (self._names[index] for index in range(len(self)))
        missing = [name for name in names if name not in files and not os.path.isfile(self.root / name)]  # noqa: PTH113
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self)} images listed in {self.root}/annotations are missing: "
                f"{abbreviate(missing)}"
            )

    def _index(self, split: str) -> CocoIndex:
        folder = self.root / "annotations"
        info, instances = (find_optional(folder / f"{kind}_{split}.json") for kind in ("image_info", "instances"))
        if info or instances:
            return _read_cached(info, instances)
        files = (path.name for path in (self.root / split).iterdir() if path.name.lower().endswith(SUFFIXES))
        return CocoIndex.of_names(sorted(files))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the key of an image: split/file name."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.key(index))

    def objects(self, index: int) -> Objects:
        """Return the boxes and labels of an image, in pixels of the upright image and clipped to it.

        Raises:
            DataError: The size in the annotations does not fit the image, or does not tell which pixels boxes count.
        """
        part = slice(self._offsets[index], self._offsets[index + 1])
        height, width = self._sizes[index].tolist()
        boxes, shown, turned, wrong_size = place(
            self._boxes[part], self.root / self.key(index), (height, width), self.frame
        )
        outside = len(shown) - int(shown.sum())
        labels = self._labels[part][shown]
        return Objects(boxes[shown], labels, outside=outside, turned=turned, wrong_size=wrong_size)

    def left_out(self) -> Mapping[str, int]:
        """Count the annotations that are crowds, have no box of a pixel, or belong to images not listed."""
        return dict(zip(LEFT_OUT, self._left_out.tolist(), strict=True))


def _join_categories(parts: Sequence[CocoIndex]) -> tuple[tuple[str, ...], list[npt.NDArray[np.int64]]]:
    """Return the categories of all parts by name, those of the first part first, and the labels of each part."""
    numbers: dict[str, int] = {}
    labels = []
    for part in parts:
        places = [numbers.setdefault(name, len(numbers)) for name in part.categories.tolist()]
        labels.append(np.array(places, np.int64)[part.labels])
    return tuple(numbers), labels


def _read_cached(info: Path | None, instances: Path | None) -> CocoIndex:
    """Return the index of annotation files, from the cache if the files have not changed."""
    stats = [
        file and (str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in (info, instances)
    ]
    digest = hashlib.blake2b(repr(("coco", VERSION, stats)).encode(errors="surrogatepass"), digest_size=12).hexdigest()
    file, what = cache_dir() / "coco" / f"{digest}.index", f"the index of {instances or info}"
    index = load_cache(file, what, CocoIndex.load)
    if index is None:
        index = read_index(info, instances)
        save_cache(file, what, index.save)
    return index
