"""Reading from many tars, by any number of threads and processes."""

from __future__ import annotations

import os
from functools import lru_cache

from sslkit.errors import DataError
from sslkit_images.shards.index import Tar

_SHARE = 4
"""One in so many of the files that a process may open is a tar; loaders hand on tensors as open files, too."""
_FEWEST, _MOST = 16, 4096


def read(tar: Tar, at: int, size: int) -> bytes:
    """Read `size` bytes at `at`; the position is part of the call, so that nobody disturbs anybody.

    Raises:
        DataError: It cannot be read, or is not what was indexed.
    """
    try:
        data = os.pread(_opened(tar).number, size, at)
    except OSError as error:
        raise DataError(f"{tar.path} cannot be read: {error.strerror}") from None
    if len(data) < size:
        raise DataError(
            f"{tar.path} is cut off: it ends before byte {at + size}, and had {tar.size} when it was indexed"
        )
    return data


class _Open:
    """An open tar. It is closed when nobody holds it any more, and not under the hands of a thread that reads."""

    number = -1

    def __init__(self, tar: Tar) -> None:
        self.number = os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC)
        now = Tar.at(tar.path, self.number)
        if now != tar:
            raise DataError(
                f"{tar.path} changed since it was indexed: it had {tar.size} bytes, and has {now.size}"
                if now.size != tar.size
                else f"{tar.path} changed since it was indexed: it was written again, with as many bytes"
            )

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]  # bound: at exit, modules go first
        if self.number >= 0:
            close(self.number)


def _most() -> int:
    try:
        import resource
    except ImportError:  # pragma: no cover - not on Windows
        return _FEWEST
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(_FEWEST, min(limit // _SHARE, _MOST)) if limit != resource.RLIM_INFINITY else _MOST


_opened = lru_cache(maxsize=_most())(_Open)
"""Open tars of this process, the latest used; lru_cache holds no lock that a fork could leave locked."""
