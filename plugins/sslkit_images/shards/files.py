"""Read from many tars, in any number of threads and processes."""

from __future__ import annotations

import os
from functools import lru_cache

from sslkit.errors import DataError
from sslkit_images.shards.index import Tar

_SHARE = 4
"""One in this many of the files that a process may open can be a tar: data loaders pass tensors as open files, too."""
_MIN_OPEN, _MAX_OPEN = 16, 4096


def read(tar: Tar, offset: int, size: int) -> bytes:
    """Read `size` bytes at `offset`. Safe in several threads at once: `os.pread` does not move the file position.

    Raises:
        DataError: The tar cannot be read, or has changed since it was indexed.
    """
    try:
        data = os.pread(_open_tar(tar).descriptor, size, offset)
    except OSError as error:
        raise DataError(f"{tar.path} cannot be read: {error.strerror}") from None
    if len(data) < size:
        raise DataError(
            f"{tar.path} is truncated: it ends before byte {offset + size}, but had {tar.size} when it was indexed"
        )
    return data


class _OpenTar:
    """An open tar, closed when its last reference is dropped, so never while a thread is reading from it."""

    descriptor = -1

    def __init__(self, tar: Tar) -> None:
        self.descriptor = os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC)
        now = Tar.stat(tar.path, self.descriptor)
        if now != tar:
            raise DataError(
                f"{tar.path} changed since it was indexed: it had {tar.size} bytes and now has {now.size}"
                if now.size != tar.size
                else f"{tar.path} changed since it was indexed: it was rewritten with the same size"
            )

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]  # bound early: modules may be gone at exit
        if self.descriptor >= 0:
            close(self.descriptor)


def _max_open() -> int:
    try:
        import resource
    except ImportError:  # pragma: no cover - not on Windows
        return _MIN_OPEN
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(_MIN_OPEN, min(limit // _SHARE, _MAX_OPEN)) if limit != resource.RLIM_INFINITY else _MAX_OPEN


_open_tar = lru_cache(maxsize=_max_open())(_OpenTar)
"""The most recently used tars that this process has open. lru_cache holds no lock that a fork could leave locked."""
