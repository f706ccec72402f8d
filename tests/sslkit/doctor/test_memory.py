"""Peak memory, and the bound for batches."""

from __future__ import annotations

import math
import os
import time
from itertools import repeat

import numpy as np
import psutil
import pytest
import torch

from sslkit.data.epochs import Item
from sslkit.data.loader import BATCHES_AHEAD, Loader
from sslkit.doctor import memory


def test_a_loader_makes_as_many_batches_ahead_as_the_bound_says(dataset, monkeypatch):
    """Counted where the loader asks for items, while no batch is taken; the one in use was the first."""
    workers, batches = 2, []

    def items():
        for batch in repeat([Item(0, 1)]):
            batches.append(batch)
            yield batch

    with Loader(dataset(), items(), workers, torch.device("cpu")) as feed:
        for _ in range(5):
            next(feed)
            time.sleep(0.02)
        ahead = len(batches) - 5
        assert feed.ring is not None
        assert feed.ring.nbytes == memory.bound(workers, sum(map(math.prod, feed.ring.shapes.values())))
    assert ahead == BATCHES_AHEAD * workers
    assert memory.bound(workers, 10) == 10 * (ahead + 1)
    assert memory.bound(0, 10) == 10
    assert memory.bound(1, 10, pinned=True) == 60


def test_peaks_are_at_least_what_is_resident(dataset):
    array = np.ones(30_000_000, np.uint8)
    with Loader(dataset(), repeat([Item(0, 1)]), 1, torch.device("cpu")) as feed:
        next(feed)
        workers = [worker.pid for worker in feed.processes()]
        now = psutil.Process(workers[0]).memory_info().rss
        measured = memory.measure(torch.device("cpu"), workers)
    assert (measured.device, measured.device_total) == (None, None)
    assert measured.process >= psutil.Process().memory_info().rss - 2**20 > array.nbytes
    assert measured.workers == pytest.approx(now, rel=0.5)
    assert 0 < measured.free <= psutil.virtual_memory().total


def test_what_the_system_does_not_report_is_none(tmp_path):
    assert memory._kilobytes(tmp_path / "none", "VmHWM") is None
    assert memory._peak_of(2**30) is None
    (tmp_path / "max").write_text("max\n")
    assert memory._number(tmp_path / "max") is None
    assert memory._peak_of(os.getpid()) == pytest.approx(memory._own_peak(), rel=0.2)
