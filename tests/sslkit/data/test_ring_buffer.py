"""Buffers are used in turn, and a message unpickles to the same tensors."""

from __future__ import annotations

import gc
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from sslkit.data.ring_buffer import BatchMessage, RingBuffer, as_channels_last

SHAPES = {"a": (2, 1, 3, 3, 3), "b": (2, 2, 4, 4, 3)}


def test_buffers_are_reused_in_turn() -> None:
    ring = RingBuffer(SHAPES, slots=3)
    for number in range(3):
        for part in ring[number].values():
            part.fill_(number)
    assert {name: tuple(part.shape) for name, part in ring[0].items()} == SHAPES
    assert [int(ring[number]["b"].unique()) for number in range(6)] == [0, 1, 2, 0, 1, 2]
    assert ring.nbytes == 3 * (2 * 27 + 4 * 48)


def test_pixels_of_a_message_are_not_copied() -> None:
    """Also for a batch that is smaller than its buffer."""
    ring = RingBuffer(SHAPES, slots=2)
    for part in ring[5].values():
        part.copy_(torch.randint(0, 256, part.shape, dtype=torch.uint8))
    pixels = {name: as_channels_last(part[:1]) for name, part in ring[5].items()}
    batch = {**pixels, "index": torch.tensor([7]), "counts": {"x": 1.0}, "bad": [(3, "why")]}
    data = pickle.dumps(BatchMessage(ring, 5, batch))
    assert len(data) < 1000
    received = pickle.loads(data)
    assert received.keys() == batch.keys()
    assert all(torch.equal(received[name], batch[name]) for name in ("a", "b", "index"))
    assert received["a"].data_ptr() == ring[1]["a"].data_ptr()
    assert (received["counts"], received["bad"]) == ({"x": 1.0}, [(3, "why")])


def test_pixels_outlive_their_ring() -> None:
    ring = RingBuffer(SHAPES, slots=1)
    ring[0]["a"].fill_(9)
    pixels = ring[0]["a"]
    del ring
    gc.collect()
    assert (pixels == 9).all()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_writes_to_the_same_memory(monkeypatch, method) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    ring = RingBuffer({"a": (4,)}, slots=1)
    ring.memory.zero_()
    child = multiprocessing.get_context("fork").Process(target=np.copyto, args=(ring[0]["a"].numpy(), 5))
    child.start()
    child.join()
    assert ring[0]["a"].tolist() == [5] * 4
