"""Batches come out in order, and what goes wrong in a loader process is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from sslkit.data import loader as feeding
from sslkit.data.epochs import Item
from sslkit.data.loader import Loader
from sslkit.data.views import to_device
from sslkit.errors import DataError, SslkitError


def test_what_is_wrong_with_a_file_comes_out_of_the_loader_with_its_name(dataset) -> None:
    made = dataset("source.broken=[2]", 'on_bad_image="stop"')
    batches = Loader(made, iter([[Item(0, 0), Item(0, 2)]]), 0, torch.device("cpu"))
    with pytest.raises(DataError, match=r"image 2 \(0002\.png\): 0002\.png is no image(.|\n)*on_bad_image = \"skip\""):
        next(batches)


@pytest.mark.parametrize("where", ["waiting for a batch", "anywhere else", "fetching what it made"])
def test_a_loader_process_that_dies_is_told_with_what_it_had_in_hand(dataset, monkeypatch, where) -> None:
    made = dataset()
    read = made.source.read

    def dies(index: int) -> bytes:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(index)

    monkeypatch.setattr(made.source, "read", dies)
    items = iter([[Item(0, place)] for place in range(8)])
    words = r"loader process 1 was killed by SIGKILL, as when memory runs out; it had image 3 \(0003\.png\) in hand"
    told = pytest.raises(SslkitError, match=words)
    with told, Loader(made, items, 2, torch.device("cpu")) as feed:
        next(feed)
        if where == "anywhere else":  # torch tells of it wherever the main process is
            for _ in range(1000):
                time.sleep(0.02)
        if where == "fetching what it made":  # the process was there when its batch was announced
            with suppress(RuntimeError):
                while not feed.stream._workers[1].exitcode:
                    time.sleep(0.02)
            raise ConnectionResetError(104, "Connection reset by peer")
        list(feed)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_whoever_makes_them(dataset, workers) -> None:
    """In the main process and in loader processes, whose batches are never copied."""
    made = dataset()
    batches = [[Item(0, place), Item(1, place)] for place in range(5)]
    with Loader(made, iter(batches), workers, torch.device("cpu")) as feed:
        given = [to_device(batch, made.views, torch.device("cpu")) for batch in feed]
    expected = [to_device(made[items], made.views, torch.device("cpu")) for items in batches]
    for one, other in zip(given, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one if name not in ("counts", "bad"))


def test_a_batch_is_its_own_until_the_next_is_asked_for(dataset) -> None:
    """Its pixels lie where only batches made after it is done with are written."""
    made = dataset()
    batches = [[Item(number, 0), Item(number, 1)] for number in range(12)]
    with Loader(made, iter(batches), 2, torch.device("cpu")) as feed:
        assert feed.ring
        assert feed.ring.nbytes == 5 * sum(value.nbytes for name, value in made[batches[0]].items() if "pixels" in name)
        for items, batch in zip(batches, feed, strict=True):
            time.sleep(0.02)  # the processes fill all that they may
            expected = made[items]
            assert all(torch.equal(batch[name], expected[name]) for name in expected if name.startswith("pixels."))


def test_processes_that_are_spawned_fill_the_same_batches(dataset, monkeypatch) -> None:
    made = dataset()
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # a spawned process finds the source of `tests` by name
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda *_, **__: "spawn")
    context = multiprocessing.get_context("spawn")
    batches = [[Item(0, 0), Item(1, 1)]]
    loader_context = {"multiprocessing_context": context}
    init = feeding.DataLoader.__init__
    monkeypatch.setattr(feeding.DataLoader, "__init__", lambda *a, **k: init(*a, **k, **loader_context))
    with Loader(made, iter(batches), 1, torch.device("cpu")) as feed:
        batch, expected = next(feed), made[batches[0]]
        assert all(torch.equal(batch[name], expected[name]) for name in expected if name not in ("counts", "bad"))
