"""Pack any source as plain tar shards: `KEY.jpg`, with `KEY.cls` for a label and `KEY.objects.json` for objects.

The tars depend on the source and the maximum size alone, so an interrupted call can be resumed and ends with the same
bytes.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Container, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sslkit.api import Progress, Source
from sslkit.errors import DataError
from sslkit.files import make_folder, replace_file
from sslkit_images.folder import SUFFIXES
from sslkit_images.names import NameList
from sslkit_images.shards.index import Query, hash_of
from sslkit_images.shards.members import KEY
from sslkit_images.shards.samples import OBJECTS, is_ignored, normalized, objects_to_json, split_name
from sslkit_images.shards.source import CATEGORIES, index_tar

NAME = "shard-{:06d}.tar"
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
    """

    images: int
    size: int
    pattern: str
    labels: bool


def pack(source: Source, folder: Path, max_size: int, progress: Progress) -> PackResult:
    """Write an opened source as tars of at most `max_size` bytes, or of one larger image; continue after existing tars.

    Raises:
        DataError: An image cannot be read, or the folder holds tars of another source.
        UsageError: The folder cannot be one.
        StorageError: A tar cannot be written; those before it are complete, and are not packed again.
    """
    make_folder(folder, "--out")
    used_keys = UsedKeys()
    sizes, done = _resume(source, folder, used_keys)
    _write_categories(source, folder)
    progress("packing images", done, len(source))
    while done < len(source):
        with replace_file(folder / NAME.format(len(sizes))) as part, part.open("xb") as file:
            done += _fill(file, source, done, max_size, progress, used_keys)
            sizes.append(file.tell())
        progress("packing images", done, len(source))
    pattern = f"shard-{{{0:06d}..{len(sizes) - 1:06d}}}.tar"
    return PackResult(done, sum(sizes), pattern, all(source.label(index) is not None for index in range(len(source))))


def _resume(source: Source, folder: Path, used_keys: UsedKeys) -> tuple[list[int], int]:
    """Return the sizes of the existing tars and the number of images in them, which are the source's first.

    The keys of their samples are added to `used_keys`.
    """
    sizes: list[int] = []
    done = 0
    while (path := folder / NAME.format(len(sizes))).exists():
        images = _image_names(path)
        if not _matches_source(path, source, done, images, used_keys):
            raise DataError(f"{path} does not match the images to pack: write --out ANOTHER-FOLDER, or remove it")
        sizes.append(path.stat().st_size)
        for number in range(len(images)):
            used_keys.add(split_name(member_name(images[number], b"", used_keys))[0])
        done += len(images)
    unexpected = sorted(folder.glob("shard-*.tar"))[len(sizes) :]
    if unexpected:
        raise DataError(
            f"{folder} holds {unexpected[0].name} but not {path.name}: write --out ANOTHER-FOLDER, or remove it"
        )
    return sizes, done


def _image_names(path: Path) -> NameList:
    """Return the names of the images in a tar.

    Raises:
        DataError: The tar cannot be used.
    """
    tar = index_tar(Query(SUFFIXES, ("cls",)), path)
    if tar.index is None:
        raise DataError("; ".join(tar.problems))
    return NameList.concatenate([tar.index.text], [tar.index.lengths])


def _matches_source(path: Path, source: Source, first: int, names: NameList, used_keys: UsedKeys) -> bool:
    """Return whether a tar matches the source from image `first` on: all names, and every byte of the first image."""
    if not 0 < len(names) <= len(source) - first:
        return False
    if any(names[number] != source.key(first + number) for number in range(len(names))):
        return False
    sample, _ = _encode_sample(source, first, source.read(first), used_keys)
    with path.open("rb") as file:
        return file.read(len(sample)) == sample


def _write_categories(source: Source, folder: Path) -> None:
    if multiline := [name for name in source.categories if "\n" in name]:
        raise DataError(f"the category {multiline[0]!r} has more than one line, but {CATEGORIES} needs one line each")
    if source.categories:
        with replace_file(folder / CATEGORIES) as part:
            part.write_bytes("".join(f"{name}\n" for name in source.categories).encode("utf-8", "surrogateescape"))


def _fill(file: BinaryIO, source: Source, first: int, max_size: int, progress: Progress, used_keys: UsedKeys) -> int:
    """Write one tar from image `first` on, and return the number of images in it."""
    done = 0
    with closing(_read_ahead(source, first)) as images:
        for data in images:
            sample, key = _encode_sample(source, first + done, data, used_keys)
            if done and file.tell() + len(sample) + tarfile.RECORDSIZE > max_size:
                break
            file.write(sample)
            used_keys.add(key)
            done += 1
            if not done % _AHEAD:
                progress("packing images", first + done, len(source))
    file.write(b"\0" * (2 * tarfile.BLOCKSIZE))
    file.write(b"\0" * (-file.tell() % tarfile.RECORDSIZE))
    return done


def _read_ahead(source: Source, first: int) -> Generator[bytes, None, None]:
    """Yield the images from `first` on, reading ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(first, len(source), _AHEAD):
            yield from pool.map(source.read, range(start, min(start + _AHEAD, len(source))))


def _encode_sample(source: Source, index: int, data: bytes, used_keys: UsedKeys) -> tuple[bytes, str]:
    """Return the tar blocks of an image's members, and the unique key that they share."""
    key = source.key(index)
    name = member_name(key, data, used_keys)
    stem, _ = split_name(name)
    blocks = _encode_member(name, data, {} if name == key else {KEY: key})
    label, objects = source.label(index), source.objects(index)
    if label is not None:
        blocks += _encode_member(f"{stem}.cls", str(label).encode())
    if len(objects.labels):
        blocks += _encode_member(f"{stem}.{OBJECTS}", objects_to_json(objects))
    return blocks, stem


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
