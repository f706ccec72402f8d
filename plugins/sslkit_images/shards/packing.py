"""Pack any source as plain tar shards: `KEY.jpg`, with `KEY.cls` for a label and `KEY.objects.json` for objects.

The tars depend on the source and the maximum size alone, so an interrupted call can be resumed and ends with the same
bytes.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Container, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from sslkit.api import Progress, Source
from sslkit.errors import DataError
from sslkit.files import make_folder, replace_file
from sslkit_images.folder import SUFFIXES, read_file
from sslkit_images.problems import short
from sslkit_images.shards.annotations import OBJECTS, objects_to_json
from sslkit_images.shards.categories import CATEGORIES, encode_categories
from sslkit_images.shards.index import hash_of
from sslkit_images.shards.members import KEY
from sslkit_images.shards.samples import is_ignored, normalized, split_name

NAME = "shard-{:06d}.tar"
_INSTEAD = "write --out ANOTHER-FOLDER, or remove what was packed before"
_AHEAD = 64
"""Number of images that are read ahead, by `_THREADS` threads."""
_THREADS = 8
_MAGIC = {b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp", b"II": ".tiff", b"MM": ".tiff", b"GIF8": ".gif"}


class UsedKeys:
    """The keys of the samples in all tars, stored as hashes. A collision adds one `_` to a name."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __contains__(self, key: object) -> bool:
        return hash_of(str(key).encode("utf-8", "surrogateescape")) in self._hashes

    def add(self, key: str) -> None:
        """Add a key."""
        self._hashes.add(hash_of(key.encode("utf-8", "surrogateescape")))


@dataclass(frozen=True)
class PackResult:
    """The contents of a folder after packing.

    Attributes:
        images: Number of images in all tars.
        size: Size of all tars, bytes.
        pattern: Pattern that names all of these tars.
        labels: Whether every image has a label.
        left_out: What is not in the tars, because the source leaves it out -> its number.
    """

    images: int
    size: int
    pattern: str
    labels: bool
    left_out: Mapping[str, int]


def pack(source: Source, folder: Path, max_size: int, progress: Progress) -> PackResult:
    """Write an opened source as tars of at most `max_size` bytes, or of one larger image; continue after existing tars.

    Raises:
        DataError: An image cannot be read, a name cannot be written, or the folder has something else than these
            images, labels and objects in its tars.
        UsageError: The folder cannot be one.
        StorageError: A tar cannot be written; those before it are complete, and are not packed again.
    """
    make_folder(folder, "--out")
    categories = encode_categories(source.categories)
    packing = _Packing(source, progress)
    sizes = _resume(packing, folder)
    _write_categories(categories, folder)
    while packing.done < len(source):
        with replace_file(folder / NAME.format(len(sizes))) as part, part.open("xb") as file:
            packing.fill(file, max_size)
            sizes.append(file.tell())
    progress("packing images", packing.done, len(source))
    left_out = {**source.left_out(), "objects outside their image": packing.outside}
    return PackResult(
        images=packing.done, size=sum(sizes), pattern=f"shard-{{{0:06d}..{len(sizes) - 1:06d}}}.tar",
        labels=packing.labelled == packing.done, left_out={what: count for what, count in left_out.items() if count},
    )  # fmt: skip


def _resume(packing: _Packing, folder: Path) -> list[int]:
    """Compare the existing tars with the source's first images, and return their sizes."""
    sizes: list[int] = []
    while (path := folder / NAME.format(len(sizes))).exists():
        packing.compare(path)
        sizes.append(path.stat().st_size)
    unexpected = sorted(folder.glob("shard-*.tar"))[len(sizes) :]
    if unexpected:
        raise DataError(f"{folder} holds {unexpected[0].name} but not {path.name}: {_INSTEAD}")
    return sizes


def _write_categories(content: bytes, folder: Path) -> None:
    file = folder / CATEGORIES
    if file.exists() and read_file(file) != content:
        raise DataError(f"{file} has other names than the categories of the images to pack: {_INSTEAD}")
    if content:
        with replace_file(file) as part:
            part.write_bytes(content)


class _Sample(NamedTuple):
    """The members of one image as they stand in a tar.

    Attributes:
        blocks: Headers and contents.
        key: The unique key that the members share.
        labelled: Whether the image has a label.
        outside: Number of objects that are left out because they lie outside the image.
    """

    blocks: bytes
    key: str
    labelled: bool
    outside: int


class _Packing:
    """A source on its way into tars.

    Attributes:
        done: Number of images that are in a tar.
        labelled: Number of those that have a label.
        outside: Number of their objects that lie outside them.
    """

    def __init__(self, source: Source, progress: Progress) -> None:
        self.done = self.labelled = self.outside = 0
        self._source = source
        self._progress = progress
        self._used_keys = UsedKeys()

    def fill(self, file: BinaryIO, max_size: int) -> None:
        """Write one tar with the images that come next."""
        with closing(self._samples()) as samples:
            for sample in samples:
                size = file.tell()
                if size and size + len(sample.blocks) + tarfile.RECORDSIZE > max_size:
                    break
                file.write(sample.blocks)
                self._add(sample, "packing images")
        file.write(_end(file.tell()))

    def compare(self, path: Path) -> None:
        """Check that an existing tar holds the images that come next, byte by byte.

        Raises:
            DataError: It holds something else, or cannot be read.
        """
        try:
            with path.open("rb") as file, closing(self._samples()) as samples:
                size = 0
                for sample in samples:
                    if file.read(len(sample.blocks)) != sample.blocks:
                        break
                    size += len(sample.blocks)
                    self._add(sample, "comparing packed images")
                file.seek(size)
                if size and file.read(len(_end(size)) + 1) == _end(size):
                    return
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        place = f"near {self._source.key(self.done)}" if self.done < len(self._source) else "after the last image"
        raise DataError(f"{path} does not match the images to pack: {_INSTEAD} (it differs {place})")

    def _add(self, sample: _Sample, action: str) -> None:
        self._used_keys.add(sample.key)
        self.done += 1
        self.labelled += sample.labelled
        self.outside += sample.outside
        if not self.done % _AHEAD:
            self._progress(action, self.done, len(self._source))

    def _samples(self) -> Generator[_Sample, None, None]:
        """Yield the samples that come next, and read their images ahead."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(self.done, len(self._source), _AHEAD):
                indices = range(start, min(start + _AHEAD, len(self._source)))
                for index, data in zip(indices, pool.map(self._source.read, indices), strict=True):
                    yield self._encode(index, data)

    def _encode(self, index: int, data: bytes) -> _Sample:
        key = self._source.key(index)
        name = member_name(_checked(key), data, self._used_keys)
        stem, _ = split_name(name)
        blocks = _encode_member(name, data, {} if name == key else {KEY: key})
        label, objects = self._source.label(index), self._source.objects(index)
        if label is not None:
            blocks += _encode_member(f"{stem}.cls", str(label).encode())
        if len(objects.labels):
            blocks += _encode_member(f"{stem}.{OBJECTS}", objects_to_json(objects))
        return _Sample(blocks, stem, label is not None, objects.outside)


def _checked(key: str) -> str:
    try:
        key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise DataError(f"an image cannot be packed: its name is not valid text, {short(key)}; rename it") from None
    return key


def _end(size: int) -> bytes:
    """Return the empty blocks at the end of a tar whose members have `size` bytes."""
    empty = 2 * tarfile.BLOCKSIZE
    return b"\0" * (empty + -(size + empty) % tarfile.RECORDSIZE)


def member_name(key: str, data: bytes, used_keys: Container[str]) -> str:
    """Return the name of an image in a tar: its key, or a similar name if WebDataset would misread the key.

    Args:
        key: The image's key in the source.
        data: The image, which determines the suffix if the key has none.
        used_keys: Keys of the other samples.
    """
    path = PurePosixPath(normalized(key))
    suffix = next((path.name[-len(end) :] for end in SUFFIXES if path.name.lower().endswith(end)), "")
    if split_name(key) == (key.removesuffix(suffix), suffix[1:].lower()) and _is_free(key, used_keys):
        return key
    stem = re.sub(r"[.\0]", "_", path.name.removesuffix(suffix)) or "_"
    name = str(path.with_name(stem)).lstrip("_/") or "_"
    while not _is_free(name + ".jpg", used_keys):
        name += "_"
    return name + (suffix or next((end for magic, end in _MAGIC.items() if data.startswith(magic)), ".jpg"))


def _is_free(name: str, used_keys: Container[str]) -> bool:
    return normalized(name) == name and not is_ignored(name) and split_name(name)[0] not in used_keys


def _encode_member(name: str, data: bytes, records: dict[str, str] | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    info.pax_headers = records or {}
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return b"".join((header, data, b"\0" * (-len(data) % tarfile.BLOCKSIZE)))
