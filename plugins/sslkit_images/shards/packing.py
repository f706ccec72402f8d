"""Any source as plain tar shards: `KEY.jpg`, with `KEY.cls` for a label and `KEY.objects.json` for objects.

What is written depends on the source and the size alone, so packing goes on where it was stopped and ends with the same
bytes.
"""

from __future__ import annotations

import os
import re
import secrets
import tarfile
from collections.abc import Container, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sslkit.api import Progress, Source
from sslkit.errors import DataError, StorageError
from sslkit_images.folder import SUFFIXES
from sslkit_images.listing import Names
from sslkit_images.shards.index import Asked, hash_of
from sslkit_images.shards.members import KEY
from sslkit_images.shards.samples import OBJECTS, objects_to, passed_over, plain, split
from sslkit_images.shards.source import CATEGORIES, look_into

NAME = "shard-{:06d}.tar"
_AHEAD = 64
"""Images that are read at once, by `_THREADS` threads."""
_THREADS = 8
_MAGIC = {b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp", b"II": ".tiff", b"MM": ".tiff", b"GIF8": ".gif"}


class Used:
    """Keys of the samples in all tars, as hashes of a few dozen bytes; two that meet cost a `_` in a name."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __contains__(self, key: object) -> bool:
        return hash_of(str(key).encode("utf-8", "surrogateescape")) in self._hashes

    def add(self, key: str) -> None:
        """Take in a key."""
        self._hashes.add(hash_of(key.encode("utf-8", "surrogateescape")))


@dataclass(frozen=True)
class Packed:
    """What lies in a folder after packing.

    Attributes:
        images: In all tars.
        size: Of all tars, bytes.
        pattern: Means these tars, and not some of them.
        labels: Whether every image has a label of its own.
    """

    images: int
    size: int
    pattern: str
    labels: bool


def pack(source: Source, folder: Path, most: int, progress: Progress) -> Packed:
    """Write an opened source as tars of at most `most` bytes, or one image; go on behind those that are there.

    Raises:
        DataError: An image cannot be read, or the folder holds tars of something else.
        StorageError: A tar cannot be written; those before it are whole.
    """
    used = Used()
    sizes, done = _written(source, folder, used)
    _write_categories(source, folder)
    progress("packing images", done, len(source))
    while done < len(source):
        with _whole(folder / NAME.format(len(sizes))) as file:
            done += _fill(file, source, done, most, progress, used)
            sizes.append(file.tell())
        progress("packing images", done, len(source))
    pattern = f"shard-{{{0:06d}..{len(sizes) - 1:06d}}}.tar"
    return Packed(done, sum(sizes), pattern, all(source.label(index) is not None for index in range(len(source))))


def _written(source: Source, folder: Path, used: Used) -> tuple[list[int], int]:
    """Return the sizes of the tars that are there, and how many images they hold: the source's first ones.

    Their samples' keys join those that are used.
    """
    sizes: list[int] = []
    done = 0
    while (path := folder / NAME.format(len(sizes))).exists():
        images = _images(path)
        if not _begins_with(path, source, done, images, used):
            raise DataError(f"{path} does not hold what is to be packed: write --out ANOTHER-FOLDER, or remove it")
        sizes.append(path.stat().st_size)
        for place in range(len(images)):
            used.add(split(member_name(images[place], b"", used))[0])
        done += len(images)
    further = sorted(folder.glob("shard-*.tar"))[len(sizes) :]
    if further:
        raise DataError(
            f"{folder} holds {further[0].name} and no {path.name}: write --out ANOTHER-FOLDER, or remove it"
        )
    return sizes, done


def _images(path: Path) -> Names:
    """Return the names of the images in a tar.

    Raises:
        DataError: It is no sound tar.
    """
    found = look_into(Asked(SUFFIXES, ("cls",)), path)
    if found.part is None:
        raise DataError("; ".join(found.problems))
    return Names.joined([found.part.text], [found.part.lengths])


def _begins_with(path: Path, source: Source, first: int, names: Names, used: Used) -> bool:
    """Compare a tar with a source's images from `first` on: the names of all, and every byte of the first one."""
    if not 0 < len(names) <= len(source) - first:
        return False
    if any(names[place] != source.key(first + place) for place in range(len(names))):
        return False
    sample, _ = _sample(source, first, source.read(first), used)
    with path.open("rb") as file:
        return file.read(len(sample)) == sample


def _write_categories(source: Source, folder: Path) -> None:
    if broken := [name for name in source.categories if "\n" in name]:
        raise DataError(f"the category {broken[0]!r} has more than one line, and {CATEGORIES} one for each")
    if source.categories:
        with _whole(folder / CATEGORIES) as file:
            file.write("".join(f"{name}\n" for name in source.categories).encode("utf-8", "surrogateescape"))


def _fill(file: BinaryIO, source: Source, first: int, most: int, progress: Progress, used: Used) -> int:
    """Write one tar from image `first` on, and return how many images are in it."""
    done = 0
    with closing(_read(source, first)) as images:
        for data in images:
            sample, stem = _sample(source, first + done, data, used)
            if done and file.tell() + len(sample) + tarfile.RECORDSIZE > most:
                break
            file.write(sample)
            used.add(stem)
            done += 1
            if not done % _AHEAD:
                progress("packing images", first + done, len(source))
    file.write(b"\0" * (2 * tarfile.BLOCKSIZE))
    file.write(b"\0" * (-file.tell() % tarfile.RECORDSIZE))
    return done


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file aside, and rename it when it is whole; whoever else writes the same one does not disturb."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; tars that are whole stay, and are not packed again"
        ) from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _read(source: Source, first: int) -> Generator[bytes, None, None]:
    """Yield the images from `first` on, read ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(first, len(source), _AHEAD):
            yield from pool.map(source.read, range(start, min(start + _AHEAD, len(source))))


def _sample(source: Source, index: int, data: bytes, used: Used) -> tuple[bytes, str]:
    """Return the blocks of an image's members, and the key that they share, which no other sample has."""
    key = source.key(index)
    name = member_name(key, data, used)
    stem, _ = split(name)
    made = _member(name, data, {} if name == key else {KEY: key})
    label, objects = source.label(index), source.objects(index)
    if label is not None:
        made += _member(f"{stem}.cls", str(label).encode())
    if len(objects.labels):
        made += _member(f"{stem}.{OBJECTS}", objects_to(objects))
    return made, stem


def member_name(key: str, data: bytes, used: Container[str]) -> str:
    """Return what an image is called in a tar: its key, or where a reader of WebDataset would misread that, like it.

    Args:
        key: In the source.
        data: The image, which decides the ending where the key has none.
        used: Keys of samples.
    """
    path = PurePosixPath(plain(key))
    ending = next((path.name[-len(end) :] for end in SUFFIXES if path.name.lower().endswith(end)), "")
    if split(key) == (key.removesuffix(ending), ending[1:].lower()) and _fits(key, used):
        return key
    stem = re.sub(r"[.\0]", "_", path.name.removesuffix(ending)) or "_"
    name = str(path.with_name(stem)).lstrip("_/") or "_"
    while not _fits(name + ".jpg", used):
        name += "_"
    return name + (ending or next((end for magic, end in _MAGIC.items() if data.startswith(magic)), ".jpg"))


def _fits(name: str, used: Container[str]) -> bool:
    return plain(name) == name and not passed_over(name) and split(name)[0] not in used


def _member(name: str, data: bytes, records: dict[str, str] | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    info.pax_headers = records or {}
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return b"".join((header, data, b"\0" * (-len(data) % tarfile.BLOCKSIZE)))
