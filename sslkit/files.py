"""Write files whole or not at all, and keep a cache that a run can do without."""

from __future__ import annotations

import errno
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from sslkit.errors import SslkitWarning, StorageError

_T = TypeVar("_T")
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""What a file system answers that cannot flush folders."""


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
        yield part
        _flush(part)
        part.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"cannot write {path}: {reason(error)}; an older file is unchanged") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


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
            SslkitWarning, stacklevel=2,
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
        warnings.warn(f"{what} is made again: {path} is damaged ({reason(error)})", SslkitWarning, stacklevel=2)
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
