"""Buffers are given out in turn, and what is sent arrives as the same tensors."""

from __future__ import annotations

import gc
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from sslkit.data.ring_buffer import RingBuffer, Sent, laid_out

SHAPES = {"a": (2, 1, 3, 3, 3), "b": (2, 2, 4, 4, 3)}


def test_buffers_come_again_after_as_many_as_there_are() -> None:
    ring = RingBuffer(SHAPES, places=3)
    for number in range(3):
        for part in ring[number].values():
            part.fill_(number)
    assert {name: tuple(part.shape) for name, part in ring[0].items()} == SHAPES
    assert [int(ring[number]["b"].unique()) for number in range(6)] == [0, 1, 2, 0, 1, 2]
    assert ring.nbytes == 3 * (2 * 27 + 4 * 48)


def test_what_is_sent_arrives_in_place() -> None:
    """Also of a batch that is smaller than the room for it."""
    ring = RingBuffer(SHAPES, places=2)
    for part in ring[5].values():
        part.copy_(torch.randint(0, 256, part.shape, dtype=torch.uint8))
    pixels = {name: laid_out(part[:1]) for name, part in ring[5].items()}
    batch = {**pixels, "index": torch.tensor([7]), "counts": {"x": 1.0}, "bad": [(3, "why")]}
    data = pickle.dumps(Sent(ring, 5, batch))
    assert len(data) < 1000
    arrived = pickle.loads(data)
    assert arrived.keys() == batch.keys()
    assert all(torch.equal(arrived[name], batch[name]) for name in ("a", "b", "index"))
    assert arrived["a"].data_ptr() == ring[1]["a"].data_ptr()
    assert (arrived["counts"], arrived["bad"]) == ({"x": 1.0}, [(3, "why")])


def test_pixels_outlive_their_ring() -> None:
    ring = RingBuffer(SHAPES, places=1)
    ring[0]["a"].fill_(9)
    kept = ring[0]["a"]
    del ring
    gc.collect()
    assert (kept == 9).all()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_writes_where_we_read(monkeypatch, method) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    ring = RingBuffer({"a": (4,)}, places=1)
    ring.memory.zero_()
    child = multiprocessing.get_context("fork").Process(target=np.copyto, args=(ring[0]["a"].numpy(), 5))
    child.start()
    child.join()
    assert ring[0]["a"].tolist() == [5] * 4
