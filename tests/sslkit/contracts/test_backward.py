"""A failed backward pass names the components that it may be the fault of; one that reaches no backbone, the losses."""

from __future__ import annotations

import sys
from collections import deque

import pytest
import torch
from torch import nn

from sslkit.contracts.backward import backward_failure, refuse_unreached
from sslkit.errors import DataError, PluginError
from sslkit.plugins import Component, Owner
from tests.conftest import Alike, Linear, Tiny
from tests.sslkit.contracts.zoo_gradients import Misshapen, saved

THERE = Owner("there", "there", "2.0")
OURS = Owner("ours", "sslkit", "1.0")


class Keeping(nn.Module):
    """Keeps a value of each step."""

    def __init__(self, keep=lambda bank: bank):
        super().__init__()
        self.keep = keep
        self.kept = None

    def forward(self, x):
        self.kept = self.keep(x.exp())
        return x.exp().mean()


def part(cls, module, kind="objective", owner=THERE):
    return Component(kind, f"{owner.plugin}/{cls.__name__.lower()}", cls, owner), module


def failing(run):
    """Return what a backward pass raises, without the lines of this file."""
    with pytest.raises(RuntimeError) as caught:
        run()
    return caught.value.with_traceback(None)


def run_twice():
    loss = torch.ones(3, requires_grad=True).exp().sum()
    loss.backward()
    loss.backward()


BESIDE = [part(Tiny, Tiny(), "backbone", OURS), part(Linear, Linear({"d": 8}), "head", OURS)]


@pytest.mark.parametrize(
    "keep", [lambda x: x, lambda x: [x], lambda x: {"last": x}, lambda x: deque([x]), lambda x: (x,)]
)
def test_the_component_that_keeps_a_graph_is_named(keep):
    keeping = Keeping(keep)
    keeping(torch.ones(3, requires_grad=True))
    error = failing(run_twice)
    told = str(backward_failure(error, [*BESIDE, part(Alike, Alike({"v": 2})), part(Keeping, keeping)]))
    what, line, cause = told.split("\n    ")
    assert what.startswith("the backward pass failed: RuntimeError: Trying to backward through the graph a second time")
    assert "Saved intermediate" not in what
    assert line.startswith(f"objective 'there/keeping' of plugin 'there' (there 2.0): {__file__}, line ")
    assert "keep x.detach()" in cause


def test_without_a_trace_all_that_may_be_at_fault_are_named_those_of_others_first():
    weight = torch.ones(3, requires_grad=True)
    error = failing(lambda: saved(weight).mean().backward())
    both = [part(Alike, Alike({"v": 2})), part(Keeping, Keeping())]
    told = str(backward_failure(error, [*BESIDE, *both]))
    assert "there/alike" in told
    assert "there/keeping" in told
    assert "ours/" not in told
    assert "write x = x + 1" in told
    assert "Hint" not in told
    assert "ours/tiny" in str(backward_failure(error, BESIDE))


def test_a_function_is_found_by_its_name(monkeypatch):
    error = failing(lambda: Misshapen.apply(torch.ones(2, requires_grad=True)).sum().backward())
    monkeypatch.setattr(sys.modules[Alike.__module__], "Misshapen", Misshapen, raising=False)
    told = str(backward_failure(error, [part(Keeping, Keeping()), part(Alike, Alike({"v": 2}))][1:]))
    assert "there/alike" in told
    assert "of the same shape" in told


def test_a_line_in_the_traceback_names_its_component_alone():
    class Hooked(nn.Module):
        pass

    def hook(gradient):
        raise ZeroDivisionError

    weight = torch.ones(2, requires_grad=True)
    weight.register_hook(hook)
    with pytest.raises(ZeroDivisionError) as caught:
        weight.sum().backward()
    told = str(backward_failure(caught.value, [*BESIDE, part(Hooked, Hooked()), part(Alike, Alike({"v": 2}))]))
    assert told.startswith(f"the backward pass failed: ZeroDivisionError\n    objective 'there/hooked' of {THERE}: ")
    assert told.endswith(f"{__file__}, line {hook.__code__.co_firstlineno + 1}, in hook")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"), DataError("no image"), RuntimeError("Gloo: connection closed by peer"),
        type("AcceleratorError", (RuntimeError,), {"__module__": "torch"})("CUDA error: an illegal memory access"),
    ],
)  # fmt: skip
def test_what_is_no_components_fault_passes(error):
    assert backward_failure(error, BESIDE) is None


def test_a_backbone_that_no_gradient_reaches_is_told_with_every_objective():
    tiny, objectives = Tiny(), [Component("objective", f"there/{n}", Alike, THERE) for n in "ab"]
    with pytest.raises(PluginError) as caught:
        refuse_unreached(tiny, objectives)
    assert "no gradient reaches the backbone" in str(caught.value)
    assert "objective 'there/a'" in str(caught.value)
    assert "objective 'there/b'" in str(caught.value)
    tiny.net[0].bias.grad = torch.zeros(8)
    refuse_unreached(tiny, objectives)
    refuse_unreached(Tiny().requires_grad_(False), objectives)
