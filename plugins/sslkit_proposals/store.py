"""Where raw regions and proposals lie on the disk.

<store>/<algorithm>/<search>/           one folder per search options
    search.json                         the options
    <source>/                           one per list of images: keys in order, and a sample of their contents
        source.json                     what it is, for people
        raw/000000.npz ...              raw regions, SHARD images a file
        selected-<rules>.json           which folder holds the proposals under these rules
        selected-<rules>-<raw>/         boxes.npy, offsets.npy, rungs.npy: memory-mapped
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslkit.api import Proposals, Source
from sslkit.boxes import Boxes
from sslkit.errors import DataError
from sslkit.folders import require_within_reach
from sslkit_proposals import shards
from sslkit_proposals.files import digest, encoded, load_json, number, save_array, save_json
from sslkit_proposals.search import Search
from sslkit_proposals.select import Rules
from sslkit_proposals.shards import Shard

SHARD = 128
"""Images per file: what an interruption loses at most."""

SAMPLED = 8
"""Images whose content takes part in naming a source's folder."""


def fingerprint(source: Source) -> str:
    """Name a list of images by its keys, in order, and the bytes of a few images spread over it.

    Two folders of equally named but different images, or one list in two orders, thus never share a store.
    """
    total = blake2b(digest_size=8)
    for index in range(len(source)):
        total.update(encoded(source.key(index)) + b"\0")
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int)) if len(source) else ():
        total.update(content(source, int(index)).to_bytes(8, "little"))
    return total.hexdigest()


def content(source: Source, index: int) -> int:
    """Hash the encoded bytes of an image; 0 when they cannot be read."""
    try:
        return number(source.read(index))
    except (DataError, OSError):
        return 0


class MappedProposals(Proposals):
    """Proposals in memory-mapped files; handed to another process, they are mapped there again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self.rungs = np.load(folder / "rungs.npy", mmap_mode="r")
        self.boxes = np.load(folder / "boxes.npy", mmap_mode="r" if self.offsets[-1] else None)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Boxes:
        first, last = self.offsets[index], self.offsets[index + 1]
        return np.asarray(self.boxes[first:last], np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedProposals, (self.folder,)


@dataclass(frozen=True)
class Share:
    """Every `count`-th shard from `index` on: what one of `count` builds searches.

    Attributes:
        index: From 0.
        count: At least 1.
    """

    index: int
    count: int

    def of(self, parts: range) -> range:
        """Return the shards of this share."""
        return parts[self.index :: self.count]


ALL = Share(0, 1)


def _written(value: Any) -> str:
    """Write a search's option as a recipe does."""
    return '"full"' if value is None else json.dumps(value)


@dataclass(frozen=True)
class Store:
    """The files of one source under one kind of search.

    Attributes:
        root: The store's folder.
        search: The options of the search.
        source: The fingerprint of the source.
        images: Their number.
    """

    root: Path
    search: Search
    source: str
    images: int

    @cached_property
    def family(self) -> Path:
        """The folder of everything that was searched with these options."""
        return self.root / self.search.algorithm / digest(self.search.describe())

    @cached_property
    def folder(self) -> Path:
        """The folder of this source."""
        return self.family / self.source

    @property
    def parts(self) -> range:
        """Numbers of the shards."""
        return range(-(-self.images // SHARD))

    def members(self, part: int) -> range:
        """Return the indices of the images in a shard."""
        return range(part * SHARD, min((part + 1) * SHARD, self.images))

    def path(self, part: int) -> Path:
        """Return where a shard lies."""
        return self.folder / "raw" / f"{part:06d}.npz"

    def load(self, part: int) -> Shard | None:
        """Return a shard, or None when it is missing or damaged."""
        shard = shards.load(self.path(part))
        return shard if shard is not None and len(shard) == len(self.members(part)) else None

    def searched(self) -> int:
        """Count the images that lie in finished shards."""
        return sum(len(self.members(part)) for part in self.parts if self.path(part).exists())

    def others(self) -> list[tuple[Path, str]]:
        """Return where regions of this source lie that were searched under other options, and which these are."""
        mine, found = {name: json.dumps(value) for name, value in self.search.describe().items()}, []
        for path in sorted(self.root.glob("*/*/search.json")):
            options = load_json(path)
            folder = path.parent / self.source
            if folder != self.folder and (folder / "raw").is_dir():
                differ = [
                    f"{name} = {_written(value)}"
                    for name, value in options.items()
                    if mine.get(name) != json.dumps(value)
                ]
                found.append((folder, ", ".join(differ)))
        return found

    def describe(self, source: Source, options: dict[str, Any]) -> None:
        """Write down, for people, what lies here; the first thing that is written.

        Raises:
            DataError: A recipe names a place to write to that is not the user's choice.
        """
        require_within_reach(self.root)
        save_json(self.family / "search.json", self.search.describe())
        first = source.key(0) if len(source) else ""
        save_json(self.folder / "source.json", {"images": self.images, "first": first, **options})

    def pointer(self, rules: Rules) -> Path:
        """Return the file that says which folder holds the proposals under `rules`."""
        return self.folder / f"selected-{digest(rules.describe())}.json"

    def selected(self, rules: Rules) -> Path | None:
        """Return the folder that holds the proposals under `rules`, or None."""
        pointer = load_json(self.pointer(rules))
        folder = self.folder / pointer["folder"] if pointer else None
        return folder if folder is not None and folder.is_dir() else None

    def open(self, rules: Rules) -> MappedProposals | None:
        """Map the proposals under `rules`; None when they have not been built."""
        folder = self.selected(rules)
        return MappedProposals(folder) if folder is not None else None

    def save_selected(
        self,
        rules: Rules,
        raw: str,
        boxes: npt.NDArray[Any],
        offsets: npt.NDArray[np.int64],
        rungs: npt.NDArray[np.uint8],
    ) -> None:
        """Write the proposals under `rules` beside older ones, point to them, and remove the older ones."""
        older = self.selected(rules)
        folder = self.folder / f"{self.pointer(rules).stem}-{raw}"
        for name, array in (("boxes", boxes), ("offsets", offsets), ("rungs", rungs)):
            save_array(folder / f"{name}.npy", array)
        save_json(self.pointer(rules), {"folder": folder.name, "options": rules.describe()})
        if older is not None and older != folder:
            shutil.rmtree(older, ignore_errors=True)
