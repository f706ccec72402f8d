"""An inner section counts by itself, and all sections add up."""

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


def test_inner_sections_do_not_count_for_outer_ones(ticks):
    timer = clock.Clock(torch.device("cpu"))
    with timer.section("outer"):
        ticks.value += 1
        with timer.section("inner"):
            ticks.value += 10
            with timer.section("outer"):
                ticks.value += 100
        ticks.value += 1000
    ticks.value += 10000
    with timer.section("inner"):
        ticks.value += 20
    assert timer.seconds == {"outer": 1101, "inner": 30}


def test_a_clock_that_is_off_counts_nothing_and_an_error_ends_its_sections(ticks):
    timer = clock.Clock(torch.device("cpu"))
    timer.on = False
    with timer.section("a"):
        ticks.value += 1
    timer.on = True

    def fails():
        with timer.section("b"), timer.section("c"):
            ticks.value += 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with timer.section("d"):
        ticks.value += 4
    assert timer.seconds == {"b": 0, "c": 2, "d": 4}


def test_functions_and_modules_are_counted_inside_the_block_only(ticks):
    class Slow(nn.Module):
        def forward(self, x):
            ticks.value += 1
            if x is None:
                raise ValueError("none")
            return x

        def more(self):
            ticks.value += 10
            return "result"

    timer, module = clock.Clock(torch.device("cpu")), Slow()
    with timer.forward(module, "forward"), timer.calls(module, "more", "calls"), timer.section("around"):
        module(torch.zeros(1))
        with pytest.raises(ValueError, match="none"):
            module(None)
        assert module.more() == "result"
    module(torch.zeros(1))
    module.more()
    assert timer.seconds == {"around": 0, "forward": 2, "calls": 10}
    assert "more" not in vars(module)


def test_the_device_is_waited_for_at_either_end(ticks, monkeypatch):
    """Work that was queued in a section is done when the section ends, as on a GPU."""
    queue = []

    def synchronize(device):
        ticks.value += sum(queue)
        queue.clear()

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    timer = clock.Clock(torch.device("cuda"))
    queue.append(5)
    with timer.section("a"):
        queue.append(1)
    with timer.section("b"):
        queue.append(2)
    assert timer.seconds == {"a": 1, "b": 2}
