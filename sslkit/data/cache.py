"""Decoded images, kept within a bound of memory that all loader processes share."""

from __future__ import annotations

import mmap
import multiprocessing as mp
from typing import Any

import numpy as np
import numpy.typing as npt

from sslkit.errors import UsageError

GB = 10**9


class Cache:
    """Keeps decoded images until its room is full, each at most once; nothing is ever thrown out.

    Epochs come back to every image equally often, so the images that came first are as good as any, and throwing out
    the oldest would throw out what is needed next. Pixels lie in one anonymous mapping that processes inherit when they
    are forked; pages take memory when they are first written. A place is given out under a lock, and can be read once
    its entry in the index says so.

    Args:
        images: In the source.
        room: Bytes of pixels, over all processes of this machine that share the cache.

    Raises:
        UsageError: Processes are not forked here, so that they could not share it.
    """

    def __init__(self, images: int, room: int) -> None:
        if mp.get_start_method() != "fork":
            raise UsageError(
                f"--cache-gb {room / GB:g}: loader processes are started by '{mp.get_start_method()}' here and share "
                "no cache; leave it out"
            )
        self.room = room
        self.pixels = np.frombuffer(mmap.mmap(-1, max(1, room)), np.uint8)
        self.index: npt.NDArray[np.int64] = np.frombuffer(mmap.mmap(-1, max(1, images) * 24), np.int64).reshape(-1, 3)
        """For every image: height, width, and where its pixels begin, plus 1; 0 as long as they are not there."""
        self.used: Any = mp.Value("q", 0)

    def get(self, image: int) -> npt.NDArray[np.uint8] | None:
        """Return the pixels of an image (h w 3), or None. They are shared, and not to be written to."""
        height, width, place = self.index[image].tolist()
        if not place:
            return None
        return self.pixels[place - 1 : place - 1 + height * width * 3].reshape(height, width, 3)

    def put(self, image: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Keep the pixels of an image (h w 3) where there is room, and it is not there already."""
        with self.used.get_lock():
            first = self.used.value
            if first + pixels.size > self.room or self.index[image, 2]:
                return
            self.used.value = first + pixels.size
        self.pixels[first : first + pixels.size] = pixels.reshape(-1)
        self.index[image, :2] = pixels.shape[:2]
        self.index[image, 2] = first + 1  # last: whoever reads it finds the rest

    @property
    def kept(self) -> int:
        """How many images there are."""
        return int(np.count_nonzero(self.index[:, 2]))
