"""The first module that makes something non-finite."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslkit.seeds import seed_of
from sslkit.training import flight_record


class Root(nn.Module):
    """Not finite below zero."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x.sqrt()}


def test_the_first_module_that_makes_it_is_named() -> None:
    module = nn.Sequential(nn.Identity(), Root())
    with flight_record.FirstNonFinite(module) as first:
        module(torch.tensor([-4.0, 1.0]))
    assert first.module == "1 (Root), from inputs of at most 4"
    assert not module[1]._forward_hooks
    with flight_record.FirstNonFinite(module) as first:
        module(torch.tensor([4.0]))
    assert first.module is None


def test_weights_that_are_not_finite_are_told() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight[0, 0] = torch.inf
    with flight_record.FirstNonFinite(module) as first:
        module(torch.ones(1, 2))
    assert first.module == "0 (Linear), from inputs of at most 1; its parameters are not finite"


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 3)])
def test_seeds_are_those_of_every_rank_and_pass(world: int, accumulate: int) -> None:
    made = flight_record.seeds(3, 9, accumulate, world)
    assert len(made) == world * accumulate
    assert made[f"{world - 1}.{accumulate - 1}"] == seed_of(3, "pass", 9, accumulate - 1, world - 1)
