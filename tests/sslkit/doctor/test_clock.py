"""What an inner section takes is its own, and all of them add up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sslkit.doctor import clock


@pytest.fixture
def ticks(monkeypatch):
    """A clock that shows what it is set to."""
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now.value)
    return now


def test_inner_sections_are_taken_off_outer_ones(ticks):
    made = clock.Clock(torch.device("cpu"))
    with made.section("outer"):
        ticks.value += 1
        with made.section("inner"):
            ticks.value += 10
            with made.section("outer"):
                ticks.value += 100
        ticks.value += 1000
    ticks.value += 10000
    with made.section("inner"):
        ticks.value += 20
    assert made.seconds == {"outer": 1101, "inner": 30}


def test_off_it_counts_nothing_and_an_error_ends_its_sections(ticks):
    made = clock.Clock(torch.device("cpu"))
    made.on = False
    with made.section("a"):
        ticks.value += 1
    made.on = True

    def fails():
        with made.section("b"), made.section("c"):
            ticks.value += 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with made.section("d"):
        ticks.value += 4
    assert made.seconds == {"b": 0, "c": 2, "d": 4}


def test_functions_and_modules_are_counted_inside_the_block_only(ticks):
    class Slow(nn.Module):
        def forward(self, x):
            ticks.value += 1
            if x is None:
                raise ValueError("none")
            return x

        def more(self):
            ticks.value += 10
            return "told"

    made, module = clock.Clock(torch.device("cpu")), Slow()
    with made.forward(module, "forward"), made.calls(module, "more", "calls"), made.section("around"):
        module(torch.zeros(1))
        with pytest.raises(ValueError, match="none"):
            module(None)
        assert module.more() == "told"
    module(torch.zeros(1))
    module.more()
    assert made.seconds == {"around": 0, "forward": 2, "calls": 10}
    assert "more" not in vars(module)


def test_the_device_is_waited_for_at_either_end(ticks, monkeypatch):
    """Work that was asked for inside is done when the section ends, as on a GPU."""
    queue = []

    def synchronize(device):
        ticks.value += sum(queue)
        queue.clear()

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    made = clock.Clock(torch.device("cuda"))
    queue.append(5)
    with made.section("a"):
        queue.append(1)
    with made.section("b"):
        queue.append(2)
    assert made.seconds == {"a": 1, "b": 2}
