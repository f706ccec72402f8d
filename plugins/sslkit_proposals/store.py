"""Store raw regions and proposals on disk.

<store>/<algorithm>/<search>/           one folder per search options
    search.json                         the options
    <source>/                           one per list of images: keys in order, and a sample of their contents
        source.json                     a description for human readers
        raw/000000.npz ...              raw regions, SHARD images per file
        selected-<rules>.json           the folder that holds the proposals under these rules
        selected-<rules>-<raw>/         boxes.npy, offsets.npy, rungs.npy: memory-mapped
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslkit.api import Proposals, Source
from sslkit.boxes import Boxes
from sslkit.errors import DataError, SslkitWarning
from sslkit.files import make_folder, reason
from sslkit.folders import require_within_reach
from sslkit_proposals.files import digest, encode_name, hash_bytes, load_json, save_array, save_json
from sslkit_proposals.search import Search
from sslkit_proposals.select import Rules
from sslkit_proposals.shards import Shard, load_shard

SHARD = 128
"""Images per file, and the most that an interruption loses."""

SAMPLED = 8
"""Number of images whose content enters the fingerprint of a source."""


def fingerprint(source: Source) -> str:
    """Hash the keys of a source, in order, and the bytes of a few images spread over it.

    Folders with equally named but different images, or the same images in another order, never share a store.
    """
    total = blake2b(digest_size=8)
    for index in range(len(source)):
        total.update(encode_name(source.key(index)) + b"\0")
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int)) if len(source) else ():
        total.update(content_hash(source, int(index)).to_bytes(8, "little"))
    return total.hexdigest()


def content_hash(source: Source, index: int) -> int:
    """Hash the encoded bytes of an image; return 0 if they cannot be read."""
    try:
        return hash_bytes(source.read(index))
    except (DataError, OSError):
        return 0


class MappedProposals(Proposals):
    """Proposals in memory-mapped files. When pickled to another process, they are mapped there again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self.rungs = np.load(folder / "rungs.npy", mmap_mode="r")
        self.boxes = np.load(folder / "boxes.npy", mmap_mode="r" if self.offsets[-1] else None)

    def checked(self, images: int) -> MappedProposals:
        """Return these proposals.

        Raises:
            ValueError: The files do not fit each other, or this number of images.
        """
        if self.offsets.shape != (images + 1,) or self.rungs.shape != (images,):
            raise ValueError(f"they are of {len(self.offsets) - 1} images, not of {images}")
        if self.boxes.shape != (self.offsets[-1], 4):
            raise ValueError(f"there are {len(self.boxes)} boxes, not {self.offsets[-1]}")
        return self

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Boxes:
        first, last = self.offsets[index], self.offsets[index + 1]
        return np.asarray(self.boxes[first:last], np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedProposals, (self.folder,)


@dataclass(frozen=True)
class Share:
    """The share that one of `count` parallel builds searches: every `count`-th shard from `index` on.

    Attributes:
        index: Number of this share, from 0.
        count: Number of shares, at least 1.
    """

    index: int
    count: int

    def of(self, parts: range) -> range:
        """Return the shards of this share."""
        return parts[self.index :: self.count]


ALL_SHARDS = Share(0, 1)


def _format_option(value: Any) -> str:
    """Format a search option as in a recipe."""
    return '"full"' if value is None else json.dumps(value)


@dataclass(frozen=True)
class Store:
    """The files of one source under one set of search options.

    Attributes:
        root: The store's folder.
        search: The options of the search.
        source: The fingerprint of the source.
        images: Number of images in the source.
    """

    root: Path
    search: Search
    source: str
    images: int

    @cached_property
    def family(self) -> Path:
        """The folder of all sources searched with these options."""
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
        """Return the file of a shard."""
        return self.folder / "raw" / f"{part:06d}.npz"

    def load(self, part: int) -> Shard | None:
        """Return a shard; None if it is missing or damaged."""
        shard = load_shard(self.path(part))
        return shard if shard is not None and len(shard) == len(self.members(part)) else None

    def searched(self) -> int:
        """Count the images in finished shards."""
        return sum(len(self.members(part)) for part in self.parts if self.path(part).exists())

    def others(self) -> list[tuple[Path, str]]:
        """Return the folders with regions of this source under other search options, and how the options differ."""
        own_options = {name: json.dumps(value) for name, value in self.search.describe().items()}
        others = []
        for path in sorted(self.root.glob("*/*/search.json")):
            options = load_json(path)
            folder = path.parent / self.source
            if options and folder != self.folder and (folder / "raw").is_dir():
                differences = [
                    f"{name} = {_format_option(value)}"
                    for name, value in options.items()
                    if own_options.get(name) != json.dumps(value)
                ]
                others.append((folder, ", ".join(differences)))
        return others

    def describe(self, source: Source, options: dict[str, Any]) -> None:
        """Write descriptions of the search and the source for human readers, before any regions.

        Raises:
            DataError: The store is in neither the current folder nor the cache folder.
            StorageError: Nothing can be written there.
        """
        require_within_reach(self.root)
        make_folder(self.root, "SSLKIT_CACHE, or with `root` in [proposals]")
        save_json(self.family / "search.json", self.search.describe())
        first = source.key(0) if len(source) else ""
        save_json(self.folder / "source.json", {"images": self.images, "first": first, **options})

    def pointer(self, rules: Rules) -> Path:
        """Return the file that names the folder of the proposals under `rules`."""
        return self.folder / f"selected-{digest(rules.describe())}.json"

    def selected(self, rules: Rules) -> Path | None:
        """Return the folder of the proposals under `rules`; None if they have not been built."""
        proposals = self.open(rules)
        return proposals.folder if proposals is not None else None

    def open(self, rules: Rules) -> MappedProposals | None:
        """Map the proposals under `rules`; return None if they have not been built, or are damaged."""
        name = str((load_json(self.pointer(rules)) or {}).get("folder", ""))
        folder = self.folder / name
        if name != folder.name or not folder.is_dir():
            return None
        try:
            return MappedProposals(folder).checked(self.images)
        except (OSError, ValueError, EOFError) as error:
            warnings.warn(
                f"the proposals in {folder} are damaged ({reason(error)}), and must be built again",
                SslkitWarning, stacklevel=1,
            )  # fmt: skip
            return None

    def save_selected(
        self,
        rules: Rules,
        raw: str,
        boxes: npt.NDArray[Any],
        offsets: npt.NDArray[np.int64],
        rungs: npt.NDArray[np.uint8],
    ) -> None:
        """Write the proposals under `rules`, switch the pointer to them, and then remove older ones."""
        older = self.selected(rules)
        folder = self.folder / f"{self.pointer(rules).stem}-{raw}"
        for name, array in (("boxes", boxes), ("offsets", offsets), ("rungs", rungs)):
            save_array(folder / f"{name}.npy", array)
        save_json(self.pointer(rules), {"folder": folder.name, "options": rules.describe()})
        if older is not None and older != folder:
            shutil.rmtree(older, ignore_errors=True)
