"""A bounded cache of decoded images, shared by processes."""

from __future__ import annotations

import multiprocessing as mp

import numpy as np
import pytest

from sslkit.data.cache import Cache
from sslkit.errors import UsageError


def picture(number: int, height: int = 4, width: int = 5) -> np.ndarray:
    return np.full((height, width, 3), number, np.uint8)


def test_stored_images_come_back() -> None:
    cache = Cache(10, 1000)
    assert cache.get(3) is None
    cache.put(3, picture(7))
    cache.put(0, picture(9, 2, 3))
    np.testing.assert_array_equal(cache.get(3), picture(7))
    np.testing.assert_array_equal(cache.get(0), picture(9, 2, 3))
    assert cache.count == 2


def test_it_never_exceeds_its_capacity_and_evicts_nothing() -> None:
    cache = Cache(10, 150)
    for image in range(10):
        cache.put(image, picture(image))  # 60 bytes each
    assert [image for image in range(10) if cache.get(image) is not None] == [0, 1]
    cache.put(8, picture(8, 2, 5))  # 30 bytes are left
    np.testing.assert_array_equal(cache.get(8), picture(8, 2, 5))
    assert cache.used.value == 150


def test_an_image_is_stored_once() -> None:
    cache = Cache(2, 1000)
    for _ in range(3):
        cache.put(1, picture(1))
    assert cache.used.value == 60


def test_processes_share_it() -> None:
    """Each image is complete, and none overwrites another, whichever process stored it."""
    cache = Cache(200, 150 * 60)

    def fill(first: int) -> None:
        for image in range(first, 200, 2):
            cache.put(image, picture(image))

    context = mp.get_context("fork")
    processes = [context.Process(target=fill, args=(first,)) for first in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    stored = [image for image in range(200) if cache.get(image) is not None]
    assert len(stored) == cache.count == 150
    for image in stored:
        np.testing.assert_array_equal(cache.get(image), picture(image))


def test_without_forked_processes_it_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(mp, "get_start_method", lambda: "spawn")
    with pytest.raises(UsageError, match=r"--cache-gb 0\.001: loader processes are started by 'spawn' here"):
        Cache(2, 10**6)
