"""The state of a run: what is saved is restored, and a snapshot undoes a forward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sslkit.training.state import BufferSnapshot, SamplerCounts
from tests.states import same


class Queue(nn.Module):
    """Replaces one of its buffers in every forward pass, changes one in place, and has one that is None."""

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


def test_a_module_without_buffers_has_nothing_to_copy() -> None:
    buffers = BufferSnapshot(nn.Linear(2, 2))
    buffers.copy()
    buffers.restore()


def test_counts_are_averaged_over_an_epoch() -> None:
    counts = SamplerCounts()
    for place, value in enumerate([1.0, 3.0, 8.0]):
        counts.add({"drawn": value}, place)
    assert counts.means == {"drawn": 4.0}
    counts.add({"drawn": 5.0}, 0)
    assert counts.means == {"drawn": 5.0}


def take(train_step: Any, steps: int) -> None:
    with train_step.setup.loader(train_step.state.step, train_step.state.step + steps) as loader:
        for _ in range(steps):
            train_step(loader)


MOMENTUM = ("optimizer.momentum=0.9", "source.broken=[3]", "max_bad_share=1.0", "objectives.contrast={}")


def test_a_state_that_is_saved_and_restored_takes_the_same_steps(train_step) -> None:
    first, second = train_step(*MOMENTUM), train_step(*MOMENTUM)
    take(first, 3)
    saved = copy.deepcopy(first.state.state_dict())
    second.state.load_state_dict(saved)
    assert same(second.state.state_dict(), saved)
    assert second.state.bad.reasons == first.state.bad.reasons != {}
    take(first, 2)
    take(second, 2)
    assert same(first.state.state_dict(), second.state.state_dict())


def test_every_piece_has_its_place_in_a_checkpoint(train_step) -> None:
    """Names in checkpoints stay: older ones must load."""
    state = train_step().state.state_dict()
    pieces = {"precision", "counts", "bad_images", "skipped", "windows", "sentinel", "online_probes"}
    assert state.keys() == {"model", "optimizer", "step", *pieces}


@pytest.mark.parametrize("missing", ["bad_images", "skipped", "windows", "sentinel", "online_probes", "precision"])
def test_pieces_that_an_older_checkpoint_does_not_have_stay_as_they_are(train_step, missing) -> None:
    made = train_step()
    take(made, 2)
    state = copy.deepcopy(made.state.state_dict())
    del state[missing]
    again = train_step()
    again.state.load_state_dict(state)
    assert again.state.step == 2
    assert same(again.state.pieces[missing].state_dict(), train_step().state.pieces[missing].state_dict())


def test_the_state_before_a_step_is_that_of_the_snapshot(train_step) -> None:
    made = train_step("objectives.contrast={}")
    take(made, 2)
    before = copy.deepcopy(made.state.state_dict())
    made.state.snapshot()
    with made.setup.loader(2, 3) as loader:
        made.accumulate(loader)
    changed = {name for name, value in made.network.named_buffers() if not torch.equal(value, before["model"][name])}
    assert any("running_mean" in name for name in changed)
    assert same(made.state.before_step(), before)
