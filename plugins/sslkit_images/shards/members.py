"""Where the members of a tar lie, found from its headers alone."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

KEY = "SSLKIT.key"
"""The PAX record of a member that could not be called what its image is called."""
_AT_ONCE = 1 << 20
_CUT_OFF = ("unexpected end of data", "empty header", "truncated header")
"""What tarfile calls a file that ends before its members do."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarError(Exception):
    """A tar cannot be read to its end; the message says why, and not in which file."""


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: As it is stored; bytes that are no UTF-8 as surrogates.
        at: Where its contents begin.
        size: Bytes.
        link: Whether it is a link to another member, without contents of its own.
        key: What the image was called where it was packed, or an empty string.
    """

    name: str
    at: int
    size: int
    link: bool = False
    key: str = ""


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """Yield the files and links in a tar, in order; folders and devices are passed over.

    Args:
        file: Open for reading, buffered.
        size: Of the tar, bytes.

    Raises:
        TarError: It is empty, compressed, damaged, cut off, or several tars in one.
    """
    at = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while info := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                at = info.offset
                if info.issparse():
                    raise TarError("has sparse members, which cannot be read at random: write it without --sparse")
                if info.isreg() or info.islnk() or info.issym():
                    link = not info.isreg()
                    yield Member(info.name, info.offset_data, info.size, link, info.pax_headers.get(KEY, ""))
            at = tar.offset
    except tarfile.TarError as error:
        raise TarError(_refused(file, size, at, error)) from None
    _check_end(file, size, at)


def _refused(file: BinaryIO, size: int, at: int, error: tarfile.TarError) -> str:
    """Say why tarfile stopped at the member that begins at `at`, or before the first one."""
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    if not head:
        return "is empty"
    if packed := next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), ""):
        return f"is compressed ({packed}) and cannot be read at random: unpack it, and keep the tar itself"
    if len(head) == tarfile.BLOCKSIZE and str(error) in _CUT_OFF:
        return f"is cut off: the member at byte {at} ends behind the file, which has {size} bytes"
    return f"is damaged behind byte {at}: {error}" if at else f"is no tar: {error}"


def _check_end(file: BinaryIO, size: int, at: int) -> None:
    """Make sure that the blocks which end a tar are at `at`: tarfile takes any damage there for its end."""
    file.seek(at)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        raise TarError(f"lacks the empty blocks at its end: it was cut off at byte {size}")
    if len(block) < tarfile.BLOCKSIZE:
        raise TarError(f"is cut off: the header at byte {at} ends behind the file, which has {size} bytes")
    if any(block):
        raise TarError(f"is damaged: there is no header at byte {at}")
    if any(file.read(_AT_ONCE)):
        raise TarError(f"ends at byte {at} of {size}, and more follows: several tars in one file are not read")
