"""Read text of any system, write files whole or not at all, check paths that a user chose, and keep caches."""

from __future__ import annotations

import codecs
import errno
import os
import secrets
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from sslkit.errors import SslkitWarning, StorageError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""What a file system answers that cannot flush folders."""
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".pdf": "PDF"}
"""Endings of pictures that commands write -> their format in Pillow."""
_SHOWN = 100
"""Characters of an impossible path that a message shows."""
_IMPOSSIBLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EINVAL)
"""What a file system answers to a path that it could not have."""
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


def name_aside(path: Path) -> Path:
    """Return a new hidden name beside `path`, ending in `.part`, that no other process or machine uses."""
    return path.parent / f".{path.name[:48]}.{secrets.token_hex(8)}.part"


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success, flush that file to disk and rename it to `path`.

    A crash leaves the old file or the new one. The folder is created if it is missing. Several processes and machines
    may write the same file at once; one of their files stays.

    Raises:
        StorageError: The file cannot be written: the disk is full, or the folder is not writable.
    """
    part = name_aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device would be replaced, too
            raise OSError(errno.EEXIST, "it exists and is not a regular file")
        yield part
        _flush(part)
        part.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"cannot write {path}: {reason(error)}; an older file is unchanged") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def make_folder(folder: Path, option: str) -> None:
    """Create a folder that a user chose, if it is missing, and check that files can be written in it.

    Args:
        folder: The folder.
        option: How to choose another one, such as "--runs"; for the message.

    Raises:
        UsageError: It cannot be a folder: a file is in its place, or its name is impossible.
        StorageError: Nothing can be written in it.
    """
    probe = name_aside(folder / "x")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
    except (OSError, ValueError) as error:
        raise _refusal(folder, option, "folder", error) from None
    finally:
        with suppress(OSError, ValueError):
            probe.unlink(missing_ok=True)


def check_output(file: Path, option: str, endings: Collection[str] = ()) -> None:
    """Check, before any work, that a file that a user chose can be written; create its folder if that is missing.

    Args:
        file: The file; an existing one is unchanged.
        option: The option that names it, for the message.
        endings: The endings that its name may have, such as ".png", in lower case; any if empty.

    Raises:
        UsageError: It cannot be a file: a folder is in its place, or its name or ending is impossible.
        StorageError: It cannot be written.
    """
    if endings and file.suffix.lower() not in endings:
        ending = f"the ending '{file.suffix}' is unknown" if file.suffix else "it has no ending"
        raise UsageError(f"{option} {file}: {ending}; write one of {', '.join(endings)}")
    try:
        exists, is_file = file.exists(), file.is_file()
    except (OSError, ValueError) as error:
        raise _refusal(file, option, "file", error) from None
    if exists and not is_file:
        kind = "a folder" if file.is_dir() else "not a regular file"
        raise UsageError(f"{option} {file}: it is {kind}; write the name of a file")
    make_folder(file.parent, option)
    if exists and not os.access(file, os.W_OK):
        raise StorageError(f"{file} cannot be written: it is protected; choose another file with {option}")


def _refusal(path: Path, option: str, kind: str, error: OSError | ValueError) -> UsageError | StorageError:
    """Return the error for a path that a user chose."""
    instead = f"choose another {kind} with {option}"
    blocking = next((item for item in (path, *path.parents) if _is_no_folder(item)), None)
    if blocking is not None:
        place = "" if blocking == path else f"{path} cannot be used: "
        return UsageError(f"{place}{blocking} is not a folder; {instead}")
    if isinstance(error, ValueError) or error.errno in _IMPOSSIBLE:
        shown = str(path) if len(str(path)) <= _SHOWN else f"{str(path)[:_SHOWN]}..."
        return UsageError(f"{shown} cannot be used: {reason(error)}; {instead}")
    return StorageError(f"{path} cannot be written: {reason(error)}; {instead}")


def _is_no_folder(path: Path) -> bool:
    """Return whether something else than a folder is at a path, such as a file, or a link that leads nowhere."""
    return os.path.lexists(path) and not os.path.isdir(path)  # noqa: PTH112 - Path.is_dir() fails for a long name


def save_picture(picture: Image, file: Path) -> None:
    """Write a picture, whole or not at all, in the format that the ending of its file names.

    Args:
        picture: A picture without transparency.
        file: The file, with one of the endings of `PICTURES`.

    Raises:
        StorageError: It cannot be written, or the format has no pictures of that size.
    """
    kind = PICTURES[file.suffix.lower()]
    with replace_file(file) as part:
        try:
            picture.save(part, format=kind)
        except ValueError as error:
            raise StorageError(f"cannot write {file}: {reason(error)}; write a .png file") from None


def save_cache(path: Path, what: str, write: Callable[[IO[bytes]], object]) -> bool:
    """Write a file of the cache, whole or not at all; if that fails, warn and go on.

    Args:
        path: The file, in the cache folder.
        what: What it holds, for the warning: "the index of a tar".
        write: Writes the content to an open file.

    Returns:
        Whether the file was written. If not, a `SslkitWarning` says why, once for each reason.
    """
    try:
        with replace_file(path) as part, part.open("xb") as file:
            write(file)
    except StorageError as error:
        cause = reason(error.__cause__ or error)
        warnings.warn(
            f"{what} cannot be kept in the cache ({path.parent}: {cause}), and is made again each time",
            SslkitWarning, stacklevel=1,
        )  # fmt: skip
        return False
    return True


def load_cache(path: Path, what: str, read: Callable[[IO[bytes]], _T]) -> _T | None:
    """Read a file of the cache; return None if it is missing or damaged, so that it is made again.

    Args:
        path: The file, in the cache folder.
        what: What it holds, for the warning about a damaged file: "the index of a tar".
        read: Reads the content from an open file; anything that it raises means that the file is damaged.
    """
    try:
        with path.open("rb") as file:
            return read(file)
    except OSError:
        return None
    except Exception as error:  # damaged bytes can fail in any way
        warnings.warn(f"{what} is made again: {path} is damaged ({reason(error)})", SslkitWarning, stacklevel=1)
        return None


def reason(error: BaseException) -> str:
    """Return why something failed, in one line: the operating system's words if one of its errors is the cause."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return (str(cause or error).strip().splitlines() or [type(error).__name__])[0]


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be opened and flushed."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(handle)
