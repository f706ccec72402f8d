"""Cache decoded images in a bounded memory that all loader processes share."""

from __future__ import annotations

import mmap
import multiprocessing as mp
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from sslkit.errors import UsageError
from sslkit.folders import processes

GB = 10**9


class _Count:
    """A number for the threads of this process, where there are no other processes."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def get_lock(self) -> threading.Lock:
        return self._lock


class Cache:
    """A cache that stores decoded images until it is full, each at most once, and never evicts one.

    Epochs return to every image equally often, so the images that came first are as good as any others, and evicting
    the oldest would evict the one that is needed next. Pixels are stored in one anonymous mapping that forked processes
    inherit; its pages take memory when they are first written. A lock guards the allocation of space, and an image can
    be read once its entry in the index is complete.

    Args:
        images: Number of images in the source.
        capacity: Bytes of pixels, over all processes of this machine that share the cache.

    Raises:
        UsageError: Processes are not forked here, so they cannot share the cache.
    """

    def __init__(self, images: int, capacity: int) -> None:
        if mp.get_start_method() != "fork":
            raise UsageError(
                f"--cache-gb {capacity / GB:g}: loader processes are started by '{mp.get_start_method()}' here and "
                "cannot share a cache; leave the option out"
            )
        self.capacity = capacity
        self.pixels = np.frombuffer(mmap.mmap(-1, max(1, capacity)), np.uint8)
        self.index: npt.NDArray[np.int64] = np.frombuffer(mmap.mmap(-1, max(1, images) * 24), np.int64).reshape(-1, 3)
        """For every image: height, width, and the offset of its pixels plus 1; 0 while they are not stored."""
        self.used: Any = mp.Value("q", 0) if processes(1) else _Count()

    def get(self, image: int) -> npt.NDArray[np.uint8] | None:
        """Return the pixels of an image (h w 3), or None. They are shared; do not write to them."""
        height, width, offset = self.index[image].tolist()
        if not offset:
            return None
        return self.pixels[offset - 1 : offset - 1 + height * width * 3].reshape(height, width, 3)

    def put(self, image: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Store the pixels of an image (h w 3), unless the cache is full or already has them."""
        with self.used.get_lock():
            first = self.used.value
            if first + pixels.size > self.capacity or self.index[image, 2]:
                return
            self.used.value = first + pixels.size
        self.pixels[first : first + pixels.size] = pixels.reshape(-1)
        self.index[image, :2] = pixels.shape[:2]
        self.index[image, 2] = first + 1  # last, so that readers find the rest complete

    @property
    def count(self) -> int:
        """The number of stored images."""
        return int(np.count_nonzero(self.index[:, 2]))
