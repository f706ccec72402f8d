"""The time to load an image, and the rate of the loader."""

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
def loaded(planned, monkeypatch):
    monkeypatch.setattr(loading, "_ENOUGH_S", 0.0)
    _, plan = planned("augment.scene.0.jitter=1.0")
    return (plan, *prepare(plan))


def slowed(monkeypatch, owner, name: str, seconds: float) -> None:
    """Make a function sleep before each call."""
    inner = getattr(owner, name)

    def slow(*args, **kwargs):
        time.sleep(seconds)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def batches(plan, size: int = 4):
    return loading.batches(Epochs(12, size, 1, plan.recipe.seed), 1)


def test_each_section_gets_its_own_time(loaded, monkeypatch):
    plan, source, _ = loaded
    seconds = {"read": 1e-3, "decode": 2e-3, "boxes": 3e-3, "cut": 4e-3, "colour": 5e-3}
    slowed(monkeypatch, source, "read", seconds["read"])
    slowed(monkeypatch, loading.images, "decode", seconds["decode"])
    slowed(monkeypatch, plan.sampler.component.cls, "sample", seconds["boxes"])
    slowed(monkeypatch, loading.images, "cuts", seconds["cut"])
    slowed(monkeypatch, on_bytes, "apply", seconds["colour"])
    timing = loading.time_image(*loaded, True, batches(plan))
    assert timing.count == 32
    assert list(timing.sections) == list(loading.ORDER)
    networks = len(plan.views)
    for section, wait in seconds.items():
        times = 2 * networks if section == "colour" else 1  # each view of each network; they are cut once for both
        assert wait * times <= timing.sections[section] < wait * times + 2e-3 * (times + 2), section
    assert timing.decoding == timing.sections["read"] + timing.sections["decode"]
    assert timing.seconds == pytest.approx(sum(timing.sections.values()))


def test_sizes_are_those_of_the_pixels_and_threads_are_as_before(loaded):
    plan, source, _ = loaded
    threads = torch.get_num_threads(), cv2.getNumThreads()
    timing = loading.time_image(*loaded, False, batches(plan))
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    assert timing.decoded == decode(source.read(0), "").nbytes == 40 * 48 * 3
    assert timing.in_batch > 2 * 24 * 24 * 3
    assert "read" not in vars(source)


def test_an_unusable_image_is_an_error_with_a_message(planned):
    _, plan = planned("source.broken=[0,1,2,3,4,5,6,7]", 'on_bad_image="stop"')
    with pytest.raises(DataError, match="is not an image"):
        loading.time_image(plan, *prepare(plan), True, batches(plan))


def test_batches_are_parts_of_those_of_the_run_without_end(loaded, monkeypatch):
    monkeypatch.setattr(loading, "MAX_IMAGES", 3)
    epochs = Epochs(12, 4, 1, 3)
    parts = list(islice(loading.batches(epochs, 2), 10))
    assert {len(part) for part in parts} == {3}
    run = [item for batch in epochs.micro_batches(2, 12) for item in batch]
    assert [item for part in parts for item in part] == run[:30]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_is_as_fast_as_its_processes(loaded, monkeypatch, workers):
    """Each image takes 5 ms or more, so that a process loads 200 images/s at most."""
    plan, source, _ = loaded
    read = source.read
    monkeypatch.setattr(source, "read", lambda index: (time.sleep(5e-3), read(index))[1])
    monkeypatch.setattr(loading, "_ENOUGH_S", 0.2)
    rate = loading.loader_rate(loading.ViewDataset(*loaded), batches(plan), workers, torch.device("cpu"))
    assert 40 < rate <= 1.1 * 200 * max(1, workers)
