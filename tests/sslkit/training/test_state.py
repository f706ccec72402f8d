"""The state of a run: what is saved is restored, and a snapshot undoes a forward pass."""

from __future__ import annotations

import torch
from torch import nn

from sslkit.training.state import BufferSnapshot


class Queue(nn.Module):
    """Replaces one of its buffers in every pass, changes one in place, and has one that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(3, 2))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("none", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows = torch.cat([x.detach(), self.rows])[:3]
        self.place += 1
        return x


def test_buffers_come_back_as_they_were() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), Queue())
    buffers = BufferSnapshot(module)
    module(torch.randn(4, 2))
    before = {name: value.clone() for name, value in module.named_buffers()}
    buffers.copy()
    for _ in range(3):
        module(torch.full((4, 2), torch.nan))
    buffers.restore()
    after = dict(module.named_buffers())
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_module_without_buffers_has_nothing_to_keep() -> None:
    buffers = BufferSnapshot(nn.Linear(2, 2))
    buffers.copy()
    buffers.restore()
