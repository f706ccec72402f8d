"""Batches come out in order, and errors in a loader process are reported."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from sslkit.data import loader as loader_module
from sslkit.data import ring_buffer
from sslkit.data.epochs import Item
from sslkit.data.loader import Loader
from sslkit.data.views import to_device
from sslkit.errors import DataError, PeerError, PluginError, RecipeError, SslkitError, StorageError, UsageError


def test_an_error_in_a_file_leaves_the_loader_with_the_name_of_the_file(dataset) -> None:
    images = dataset("source.broken=[2]", 'on_bad_image="stop"')
    batches = Loader(images, iter([[Item(0, 0), Item(0, 2)]]), 0, torch.device("cpu"))
    with pytest.raises(
        DataError, match=r"image 2 \(0002\.png\): 0002\.png is not an image(.|\n)*on_bad_image = \"skip\""
    ):
        next(batches)


@pytest.mark.parametrize(
    "error", [UsageError("mine"), RecipeError("mine"), PeerError("mine", 3), PluginError("mine"), KeyError("mine"), StorageError("mine")]
)  # fmt: skip
@pytest.mark.parametrize("part", ["read", "key", "sample"])
def test_what_a_plugin_raises_is_its_failure_with_any_number_of_workers(dataset, monkeypatch, error, part) -> None:
    """Also sslkit's own errors, which would else end the run with their codes, or with a traceback from the worker."""

    def fail(*args: object) -> None:
        raise error

    def message(workers: int) -> str:
        images = dataset()
        whole = images.sampler.sampler if part == "sample" else images.source.source
        monkeypatch.setattr(whole, part, fail)
        ending = pytest.raises(PluginError, match=f"failed: {type(error).__name__}: .?mine")
        with ending as caught, Loader(images, iter([[Item(0, 2)]]), workers, torch.device("cpu")) as loader:
            next(loader)
        return str(caught.value)

    first = message(0)
    assert first.startswith("image 2")
    assert "of plugin 'fake' (sslkit-fake 1.2) failed: " in first
    assert "test_loader.py, line" in first
    assert "Traceback" not in first
    if part == "read":
        assert message(1) == first


def test_a_samplers_data_error_is_no_bad_image(dataset, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise DataError("too small for me")

    images = dataset()
    monkeypatch.setattr(images.sampler.sampler, "sample", fail)
    with pytest.raises(
        PluginError, match=r"image 2 \(0002\.png\): sampler 'fake/pair' .* failed: DataError: too small"
    ):
        next(Loader(images, iter([[Item(0, 2)]]), 0, torch.device("cpu")))


@pytest.mark.parametrize("where", ["waiting for a batch", "anywhere else", "fetching its batch"])
def test_a_loader_process_that_dies_is_reported_with_its_image(dataset, monkeypatch, where) -> None:
    images = dataset()
    read = images.source.read

    def dies(index: int) -> bytes:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(index)

    monkeypatch.setattr(images.source, "read", dies)
    items = iter([[Item(0, place)] for place in range(8)])
    message = r"loader process 1 was killed by SIGKILL, as when memory runs out; it worked on image 3 \(0003\.png\)"
    reported = pytest.raises(SslkitError, match=message)
    with reported, Loader(images, items, 2, torch.device("cpu")) as loader:
        next(loader)
        if where == "anywhere else":  # torch reports it wherever the main process is
            for _ in range(1000):
                time.sleep(0.02)
        if where == "fetching its batch":  # the process was alive when its batch was announced
            with suppress(RuntimeError):
                while not loader.processes()[1].exitcode:
                    time.sleep(0.02)
            raise ConnectionResetError(104, "Connection reset by peer")
        list(loader)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_without_loader_processes_nothing_needs_shared_memory(dataset, monkeypatch, method) -> None:
    """As in a container without `/dev/shm`, however processes are started."""

    def refuse(*args: object) -> None:
        raise OSError(2, "No such file or directory: /dev/shm")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    monkeypatch.setattr(ring_buffer, "processes", lambda wanted: 0)
    batches = Loader(dataset(), iter([[Item(0, 0), Item(0, 2)]]), 0, torch.device("cpu"))
    assert next(batches)["index"].tolist() == [0, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_process_that_makes_them(dataset, workers) -> None:
    """In the main process and in loader processes, whose batches are never copied."""
    images = dataset()
    batches = [[Item(0, place), Item(1, place)] for place in range(5)]
    with Loader(images, iter(batches), workers, torch.device("cpu")) as loader:
        loaded = [to_device(batch, images.views, torch.device("cpu")) for batch in loader]
    expected = [to_device(images[items], images.views, torch.device("cpu")) for items in batches]
    for one, other in zip(loaded, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one if name not in ("counts", "bad"))


def test_a_batch_stays_valid_until_the_next_is_requested(dataset) -> None:
    """Its buffer is only reused for batches that are made after the next request."""
    images = dataset()
    batches = [[Item(number, 0), Item(number, 1)] for number in range(12)]
    with Loader(images, iter(batches), 2, torch.device("cpu")) as loader:
        assert loader.ring
        assert loader.ring.nbytes == 5 * sum(
            value.nbytes for name, value in images[batches[0]].items() if "pixels" in name
        )
        for items, batch in zip(batches, loader, strict=True):
            time.sleep(0.02)  # the processes fill all free buffers
            expected = images[items]
            assert all(torch.equal(batch[name], expected[name]) for name in expected if name.startswith("pixels."))


def test_spawned_processes_make_the_same_batches(dataset, monkeypatch) -> None:
    images = dataset()
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # a spawned process finds the source of `tests` by name
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda *_, **__: "spawn")
    context = multiprocessing.get_context("spawn")
    batches = [[Item(0, 0), Item(1, 1)]]
    loader_context = {"multiprocessing_context": context}
    init = loader_module.DataLoader.__init__
    monkeypatch.setattr(loader_module.DataLoader, "__init__", lambda *a, **k: init(*a, **k, **loader_context))
    with Loader(images, iter(batches), 1, torch.device("cpu")) as loader:
        batch, expected = next(loader), images[batches[0]]
        assert all(torch.equal(batch[name], expected[name]) for name in expected if name not in ("counts", "bad"))
