"""Read text files that people write by hand, on any system."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
"""Byte order marks and their encodings; UTF-32's little-endian mark begins with UTF-16's."""


class EncodingError(ValueError):
    """A text is not in the encoding that it must be in; the message says in which line, and what to do."""


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a text file: UTF-8, or UTF-16 or UTF-32 with a byte order mark, which Windows writes; see `decode`.

    Raises:
        OSError: The file cannot be read.
        EncodingError: It is not in that encoding.
    """
    return decode(path.read_bytes(), errors)


def decode(data: bytes, errors: str = "strict") -> str:
    r"""Decode a text by its byte order mark, or as UTF-8, without the mark and with line ends of `\n`.

    Args:
        data: The bytes.
        errors: What to do with bytes that do not fit, as in `bytes.decode`.

    Raises:
        EncodingError: A byte does not fit, with `errors="strict"`.
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    content = data[len(mark) :]
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        byte = content[error.start]
        raise EncodingError(
            f"line {line} is not {encoding.upper()} text (byte 0x{byte:02x}): save the file as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
