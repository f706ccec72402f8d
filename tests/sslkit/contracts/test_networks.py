"""Right networks and objectives pass, in every precision; shapes are checked with the sizes that they declare."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslkit.api import Terms
from sslkit.contracts.networks import run_backbone, run_head, run_objective
from sslkit.errors import PluginError
from sslkit.plugins import Component, Owner
from tests.conftest import Alike, Dense, Linear, Tiny

OWNER = Owner("here", "here", "1")


def component(cls, kind="objective"):
    return Component(kind, f"here/{kind}", cls, OWNER)


GIVER = component(Tiny, "backbone")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_right_networks_pass(device, mode):
    with torch.device(device):
        tiny, linear, dense = Tiny(), Linear({"d": 8}, out=5), Dense({"d": 8})
    with mode(), torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu"):
        rows = run_backbone(component(Tiny, "backbone"), tiny, torch.rand(3, 3, 24, 24, device=device))
        assert run_head(component(Linear, "head"), linear, rows["features"], GIVER).shape == (3, 5)
        assert run_head(component(Dense, "head"), dense, rows["map"], GIVER).shape == (3, 5, 5, 5)


def test_rows_are_those_that_the_instance_gives():
    """As of a backbone that wraps many, some of them without a map."""
    tiny = Tiny()
    tiny.gives = {"features": "f"}
    tiny.forward = lambda x: {"features": Tiny.forward(tiny, x)["features"], "extra": None}
    assert run_backbone(component(Tiny, "backbone"), tiny, torch.rand(2, 3, 24, 24)).keys() == {"features", "extra"}
    tiny.gives = {"features": "f", "tokens": "t f"}
    with pytest.raises(PluginError, match="returned 'features', 'extra', and `gives` promises 'tokens'"):
        run_backbone(component(Tiny, "backbone"), tiny, torch.rand(2, 3, 24, 24))


class Returning(Alike):
    """Returns what it is told to."""

    def forward(self, p, z, part=None):
        return self.value(p, z)


def objective(value, **rows):
    made = Returning({"v": 2})
    made.value = value
    rows = {"p": torch.rand(4, 2, 6, requires_grad=True), "z": torch.rand(4, 2, 6), **rows}
    return run_objective(component(Returning), made, rows, {})


@pytest.mark.parametrize(
    ("value", "terms", "monitors"),
    [
        (lambda p, z: p.mean(), ["loss"], []),
        (lambda p, z: p.double().mean(), ["loss"], []),
        (lambda p, z: p.bfloat16().mean(), ["loss"], []),
        (lambda p, z: {"a": p.mean(), "b": z.mean()}, ["a", "b"], []),
        (lambda p, z: Terms({"a": p.mean()}, {"norm": p.norm().detach()}), ["a"], ["norm"]),
        (lambda p, z: Terms({"a": p.mean()}, {"norm": torch.tensor(torch.nan)}), ["a"], ["norm"]),
        (lambda p, z: p.sum() * torch.nan, ["loss"], []),  # told by the run, with the step
        (lambda p, z: torch.zeros(()), ["loss"], []),  # as of a batch that has nothing to compare
        (lambda p, z: nn.functional.relu(p.clone(), inplace=True).mean(), ["loss"], []),
    ],
)
def test_right_objectives_pass(value, terms, monitors):
    output = objective(value)
    assert (list(output.terms), list(output.monitors)) == (terms, monitors)


def test_an_optional_row_may_be_absent():
    assert objective(lambda p, z: p.mean(), part=None).terms["loss"].requires_grad


@pytest.mark.parametrize(
    "write",
    [
        lambda p, z: z.add_(1), lambda p, z: z.clamp_(min=0), lambda p, z: z[0].zero_(), lambda p, z: z.view(-1).mul_(2),
        lambda p, z: nn.functional.normalize(z, out=z), lambda p, z: z.__setitem__(0, 0.0),
    ],
)  # fmt: skip
def test_writing_into_a_row_is_told(write):
    with pytest.raises(PluginError, match="writes into z, which others read, too"):
        objective(lambda p, z: (write(p, z), p.mean())[1])


def test_a_network_without_gradients_needs_none():
    with torch.no_grad():
        assert not objective(lambda p, z: p.mean().detach()).terms["loss"].requires_grad
    frozen = torch.rand(4, 2, 6)
    assert objective(lambda p, z: p.mean(), p=frozen).terms["loss"].requires_grad is False


class Weighing(Alike):
    """Has a layer of its own."""

    def __init__(self):
        super().__init__({"v": 2})
        self.layer = nn.Linear(6, 6)

    def forward(self, p, z):
        return (self.layer(p) - z).mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_dtype_that_an_objective_cannot_take_is_its_givers_fault(dtype):
    rows = {"z": torch.rand(4, 2, 6), "p": torch.rand(4, 2, 6, dtype=dtype, requires_grad=True)}
    given = {"p": component(Linear, "head"), "z": component(Tiny, "backbone")}
    with pytest.raises(PluginError) as caught:
        run_objective(component(Weighing), Weighing(), rows, given)
    told = str(caught.value)
    assert told.startswith(
        f"head 'here/head' of {OWNER}: forward() returned a tensor of {dtype}, which objective 'here/"
    )
    with pytest.raises(PluginError, match="^objective 'here/objective' of .* failed: RuntimeError"):
        run_objective(component(Weighing), Weighing(), rows, {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_failure_in_the_dtype_of_its_own_parameters_is_a_modules_own(dtype):
    x = torch.rand(4, 7, dtype=dtype)
    with pytest.raises(PluginError, match="^head 'here/head' of .* failed: RuntimeError"):
        run_head(component(Linear, "head"), Linear({"d": 8}).to(dtype), x, GIVER)
