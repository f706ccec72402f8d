"""Buffers as they were, and the first module that makes something non-finite."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslkit.seeds import seed_of
from sslkit.training import flight_record


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
    buffers = flight_record.Buffers(module)
    module(torch.randn(4, 2))
    before = {name: value.clone() for name, value in module.named_buffers()}
    buffers.keep()
    for _ in range(3):
        module(torch.full((4, 2), torch.nan))
    buffers.put_back()
    after = dict(module.named_buffers())
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_module_without_buffers_has_nothing_to_keep() -> None:
    buffers = flight_record.Buffers(nn.Linear(2, 2))
    buffers.keep()
    buffers.put_back()


class Root(nn.Module):
    """Not finite below zero."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x.sqrt()}


def test_the_first_module_that_makes_it_is_named() -> None:
    module = nn.Sequential(nn.Identity(), Root())
    with flight_record.FirstBad(module) as first:
        module(torch.tensor([-4.0, 1.0]))
    assert first.found == "1 (Root), from inputs of at most 4"
    assert not module[1]._forward_hooks
    with flight_record.FirstBad(module) as first:
        module(torch.tensor([4.0]))
    assert first.found is None


def test_weights_that_are_not_finite_are_told() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight[0, 0] = torch.inf
    with flight_record.FirstBad(module) as first:
        module(torch.ones(1, 2))
    assert first.found == "0 (Linear), from inputs of at most 1; its parameters are not finite"


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 3)])
def test_seeds_are_those_of_every_rank_and_pass(world: int, accumulate: int) -> None:
    made = flight_record.seeds(3, 9, accumulate, world)
    assert len(made) == world * accumulate
    assert made[f"{world - 1}.{accumulate - 1}"] == seed_of(3, "pass", 9, accumulate - 1, world - 1)
