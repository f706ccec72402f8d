"""Find the members of a tar from its headers alone."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

KEY = "SSLKIT.key"
"""The PAX record with the original key of an image that had to be renamed in the tar."""
_BLOCK_BYTES = 1 << 20
_CUT_OFF = ("unexpected end of data", "empty header", "truncated header")
"""tarfile's messages for a file that ends before its members do."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarError(Exception):
    """A tar cannot be read to its end. The message says why; the caller adds the file's name."""


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: Name as stored; bytes that are not UTF-8 become surrogates.
        offset: Start of its contents in the tar, bytes.
        size: Size of its contents, bytes.
        link: Whether it is a link to another member, without contents of its own.
        key: The key of the image in the source that was packed, or an empty string.
    """

    name: str
    offset: int
    size: int
    link: bool = False
    key: str = ""


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """Yield the files and links in a tar, in order; folders and devices are skipped.

    Args:
        file: The tar, open for buffered reading.
        size: Size of the tar, bytes.

    Raises:
        TarError: The tar is empty, compressed, damaged, truncated, or several tars in one file.
    """
    position = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while info := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all members in memory
                position = info.offset
                if info.issparse():
                    raise TarError("has sparse members, which prevent random access: write it without --sparse")
                if info.isreg() or info.islnk() or info.issym():
                    link = not info.isreg()
                    yield Member(info.name, info.offset_data, info.size, link, info.pax_headers.get(KEY, ""))
            position = tar.offset
    except tarfile.TarError as error:
        raise TarError(_explain_failure(file, size, position, error)) from None
    _check_end(file, size, position)


def _explain_failure(file: BinaryIO, size: int, position: int, error: tarfile.TarError) -> str:
    """Explain why tarfile stopped at the member that begins at `position`, or before the first one."""
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    if not head:
        return "is empty"
    if compression := next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), ""):
        return f"is compressed ({compression}), which prevents random access: unpack it to a plain tar"
    if len(head) == tarfile.BLOCKSIZE and str(error) in _CUT_OFF:
        return f"is truncated: the member at byte {position} ends after the file, which has {size} bytes"
    return f"is damaged after byte {position}: {error}" if position else f"is not a tar: {error}"


def _check_end(file: BinaryIO, size: int, position: int) -> None:
    """Check that the blocks that end a tar are at `position`: tarfile takes any damage there for the end."""
    file.seek(position)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        raise TarError(f"lacks the empty blocks at its end: it was truncated at byte {size}")
    if len(block) < tarfile.BLOCKSIZE:
        raise TarError(f"is truncated: the header at byte {position} ends after the file, which has {size} bytes")
    if any(block):
        raise TarError(f"is damaged: no valid header at byte {position}")
    if any(file.read(_BLOCK_BYTES)):
        raise TarError(f"ends at byte {position} of {size}, but more data follows: split it into one tar per file")
