"""Where the members of a tar lie, found from its headers alone: USTAR, GNU and PAX.

Python's tarfile finds the same in several times the time, and takes a tar that was cut off between two members for a
whole one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
KEY = "SSLKIT.key"
"""The PAX record of a member that could not be called what its image is called."""
_MOST = 1 << 20
"""Bytes of the longest name or set of records that is read."""
_REGULAR, _LINKS, _EMPTY = b"0" + b"\0" + b"7", b"12", b"3456"
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
    at, everywhere, own = 0, dict[str, bytes](), dict[str, bytes]()
    while header := _header(file, at, size):
        kind = header[156:157]
        about_next = kind in b"gxXLK"
        length = _length(header, {} if about_next else own)
        if length < 0:
            raise TarError(f"is damaged: the size of {_name(header, own)!r}, at byte {at}, is no number")
        data, length = at + BLOCK, 0 if kind in _LINKS + _EMPTY else length
        at = data + -(-length // BLOCK) * BLOCK
        if at > size:
            raise TarError(f"is cut off: {_name(header, own)!r} ends at byte {data + length}, the file at {size}")
        if about_next:
            records = _records(file, kind, data, length)
            everywhere, own = (everywhere | records, own) if kind == b"g" else (everywhere, own | records)
            continue
        own, found = {}, everywhere | own
        _refuse_sparse(kind, found)
        name = _name(header, found)
        if kind in _REGULAR + _LINKS and not name.endswith("/"):
            yield Member(name, data, length, kind in _LINKS, _text(found.get(KEY, b"")))


def _header(file: BinaryIO, at: int, size: int) -> bytes:
    """Return the header at `at`, or nothing where the tar ends."""
    file.seek(at)
    header = file.read(BLOCK)
    if len(header) == BLOCK and not any(header):
        if any(file.read(_MOST)):
            raise TarError(f"ends at byte {at} of {size}, and more follows: several tars in one file are not read")
        return b""
    if at and not header:
        raise TarError(f"lacks the empty blocks at its end: it was cut off at byte {size}")
    _check(header, at)
    return header


def _check(header: bytes, at: int) -> None:
    """Compare the checksum: of bytes without sign, or with one as in some old tars."""
    expected = _number(header[148:156])
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if len(header) == BLOCK and expected in (total, total - 256 * sum(byte > 127 for byte in header)):
        return
    packed = next((name for magic, name in _COMPRESSED.items() if not at and header.startswith(magic)), "")
    if packed:
        raise TarError(f"is compressed ({packed}) and cannot be read at random: unpack it, and keep the tar itself")
    raise TarError(f"is damaged: there is no header at byte {at}" if at else "is empty" if not header else "is no tar")


def _length(header: bytes, records: dict[str, bytes]) -> int:
    """Return the size of a member, which a PAX record may have; -1 where it is no number."""
    try:
        return int(records["size"]) if "size" in records else _number(header[124:136])
    except ValueError:
        return -1


def _number(field: bytes) -> int:
    """Read an octal number, or one in base 256 as GNU writes large ones; -1 when it is neither."""
    if field[:1] in (b"\x80", b"\xff"):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _records(file: BinaryIO, kind: bytes, at: int, length: int) -> dict[str, bytes]:
    """Return what a header says of the next member: a long name, or PAX records."""
    if length > _MOST:
        raise TarError(f"is damaged: a name of {length} bytes at byte {at}")
    file.seek(at)
    data = file.read(length)
    if kind in b"LK":
        return {"path": data.partition(b"\0")[0]} if kind == b"L" else {}
    found = {}
    while data.strip(b"\0"):
        digits = data.partition(b" ")[0]
        end = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        name, equals, value = data[len(digits) + 1 : end - 1].partition(b"=") if end else (b"", b"", b"")
        if not equals or end > len(data):
            raise TarError(f"is damaged: no PAX record at byte {at}")
        found[_text(name)] = value
        data = data[end:]
    return found


def _refuse_sparse(kind: bytes, records: dict[str, bytes]) -> None:
    if kind == b"S" or any(name.startswith("GNU.sparse") for name in records):
        raise TarError("has sparse members, which cannot be read at random: write it without --sparse")


def _name(header: bytes, records: dict[str, bytes]) -> str:
    if "path" in records:
        return _text(records["path"])
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
