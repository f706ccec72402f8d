"""What a photo takes, and how many the loader makes."""

from __future__ import annotations

import time
from itertools import islice

import cv2
import pytest
import torch

from sslkit.data.augment import on_bytes
from sslkit.data.epochs import Epochs
from sslkit.data.opening import prepare
from sslkit.doctor import loading
from sslkit.errors import DataError
from sslkit.images import decode


@pytest.fixture
def given(planned, monkeypatch):
    monkeypatch.setattr(loading, "_ENOUGH_S", 0.0)
    _, plan = planned("augment.scene.0.jitter=1.0")
    return (plan, *prepare(plan))


def slowed(monkeypatch, owner, name: str, seconds: float) -> None:
    """Let a function sleep before it does what it does."""
    inner = getattr(owner, name)

    def slow(*args, **kwargs):
        time.sleep(seconds)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def batches(plan, size: int = 4):
    return loading.batches(Epochs(12, size, 1, plan.recipe.seed), 1)


def test_time_is_counted_where_it_is_spent(given, monkeypatch):
    plan, source, _ = given
    seconds = {"read": 1e-3, "decode": 2e-3, "boxes": 3e-3, "cut": 4e-3, "colour": 5e-3}
    slowed(monkeypatch, source, "read", seconds["read"])
    slowed(monkeypatch, loading.images, "decode", seconds["decode"])
    slowed(monkeypatch, plan.sampler.component.cls, "sample", seconds["boxes"])
    slowed(monkeypatch, loading.images, "cuts", seconds["cut"])
    slowed(monkeypatch, on_bytes, "apply", seconds["colour"])
    found = loading.photo(*given, True, batches(plan))
    assert found.count == 32
    assert list(found.sections) == list(loading.ORDER)
    networks = len(plan.views)
    for section, wait in seconds.items():
        times = 2 * networks if section == "colour" else 1  # each view of each network; they are cut once for both
        assert wait * times <= found.sections[section] < wait * times + 2e-3 * (times + 2), section
    assert found.decoding == found.sections["read"] + found.sections["decode"]
    assert found.seconds == pytest.approx(sum(found.sections.values()))


def test_sizes_are_those_of_the_pixels_and_threads_are_as_before(given):
    plan, source, _ = given
    threads = torch.get_num_threads(), cv2.getNumThreads()
    found = loading.photo(*given, False, batches(plan))
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    assert found.decoded == decode(source.read(0), "").nbytes == 40 * 48 * 3
    assert found.made > 2 * 24 * 24 * 3
    assert "read" not in vars(source)


def test_an_image_that_cannot_be_used_ends_it_in_words(planned):
    _, plan = planned("source.broken=[0,1,2,3,4,5,6,7]", 'on_bad_image="stop"')
    with pytest.raises(DataError, match="is no image"):
        loading.photo(plan, *prepare(plan), True, batches(plan))


def test_batches_are_those_of_the_run_in_parts_and_do_not_end(given, monkeypatch):
    monkeypatch.setattr(loading, "MOST", 3)
    epochs = Epochs(12, 4, 1, 3)
    parts = list(islice(loading.batches(epochs, 2), 10))
    assert {len(part) for part in parts} == {3}
    run = [item for batch in epochs.micro_batches(2, 12) for item in batch]
    assert [item for part in parts for item in part] == run[:30]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_is_as_fast_as_its_processes(given, monkeypatch, workers):
    """Each photo waits for 5 ms, so that a process makes 200 photos/s at most."""
    plan, source, _ = given
    read = source.read
    monkeypatch.setattr(source, "read", lambda index: (time.sleep(5e-3), read(index))[1])
    monkeypatch.setattr(loading, "_ENOUGH_S", 0.2)
    rate = loading.rate(loading.ViewDataset(*given), batches(plan), workers, torch.device("cpu"))
    assert 40 < rate <= 1.1 * 200 * max(1, workers)
