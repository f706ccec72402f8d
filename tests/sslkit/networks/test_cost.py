"""Costs against closed forms, and the saving of dropping an objective."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sslkit.cli.show.plans import describe_plan, print_plan
from sslkit.networks import cost
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan


@pytest.fixture
def planned(plugins, recipe_text):
    def planned(*sets, more="", drop=()):
        values = recipe_file.parse(recipe_text + more, "dots", "dots.toml", sets)
        for name in drop:
            del values.values["objectives"][name]
        recipe, problems = recipe_file.check_structure(values)
        assert recipe, problems
        plan, problems = make_plan(recipe, plugins)
        assert plan, problems
        return plan

    return planned


def test_floating_point_operations_are_those_of_the_layers(planned) -> None:
    """24 px through 3x3 convolutions of stride 2: 11 x 11, then 5 x 5; width 8; a projector and a predictor of 6.

    Online: forward and both gradients, but none towards the pixels. Target: forward alone.
    """
    first, second = 2 * 11 * 11 * 8 * 3 * 9, 2 * 5 * 5 * 8 * 8 * 9
    projector, predictor = 2 * 8 * 6, 2 * 6 * 6
    online = 2 * first + 3 * (second + projector + predictor)
    target = first + second + projector
    measured = cost.measure(planned())
    assert measured.flops == 2 * (online + target)  # two views
    weights = (8 * 3 * 9 + 8) + 16 + (8 * 8 * 9 + 8) + (8 * 6 + 6)
    assert measured.target_parameters == weights
    assert measured.online_parameters == weights + 6 * 6 + 6


PARTS = "\n[objectives.parts]\n[[augment.part]]\nsize = 24\n"


def test_dropping_the_objective_that_reads_parts_saves_their_forward_pass(planned) -> None:
    both = cost.measure(planned("sampler.parts=3", more=PARTS))
    alone = cost.measure(planned("sampler.parts=3", more=PARTS, drop=["parts"]))
    first, second = 2 * 11 * 11 * 8 * 3 * 9, 2 * 5 * 5 * 8 * 8 * 9
    assert both.flops - alone.flops == 3 * (2 * first + 3 * second)
    assert alone.flops == cost.measure(planned()).flops


def test_without_an_objective_that_reads_it_no_target_is_built(planned) -> None:
    measured = cost.measure(planned("sampler.parts=3", more=PARTS, drop=["alike"]))
    assert measured.target_parameters == 0


@pytest.mark.parametrize("images", [2, 5])
def test_costs_are_per_image(planned, images) -> None:
    one, other = cost.measure(planned(), images), cost.measure(planned())
    assert dataclasses.replace(one, activations=0) == dataclasses.replace(other, activations=0)
    assert one.activations == pytest.approx(other.activations, rel=0.01), (
        "batch norm's statistics are saved once per batch"
    )


def test_activations_are_what_autograd_saves(planned) -> None:
    """Two views of 24 pixels through two convolutions: the tensors that each layer needs for its gradient."""
    saved = cost.measure(planned(), 8).activations
    first, second = 8 * 11 * 11, 8 * 5 * 5  # outputs, per view; batch norm and ReLU save theirs, and pixels are saved
    least = 2 * 4 * (3 * 24 * 24 + 2 * first)
    assert least <= saved <= 2 * 4 * (3 * 24 * 24 + 4 * first + 4 * second + 1000)


@pytest.mark.parametrize(
    "read",
    [
        lambda p: p.detach().abs().max().item(), lambda p: p.detach().cpu().numpy().mean(), lambda p: p.tolist(),
        lambda p: 1 if (p > 0).any() else 0, lambda p: p.detach()[p > 0], lambda p: int(p.argmax()),
    ],
)  # fmt: skip
def test_an_objective_that_reads_values_costs_the_same(planned, plugins, monkeypatch, read) -> None:
    cls = plugins.components["objective"]["fake/alike"].cls
    expected, forward = cost.measure(planned()), cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, p, z: (read(p), forward(self, p, z))[1])
    state = torch.get_rng_state()
    assert cost.measure(planned()) == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("error", [ValueError("of noise"), KeyError("absent"), MemoryError()])
def test_a_component_that_fails_on_noise_is_told_in_words(planned, plugins, monkeypatch, error) -> None:
    def fail(*given, **named):
        raise error

    monkeypatch.setattr(plugins.components["objective"]["fake/alike"].cls, "forward", fail)
    with pytest.raises(
        cost.CostError, match=f"cannot be computed: on noise, objective 'fake/alike' .*{type(error).__name__}"
    ):
        cost.measure(planned())
    described = describe_plan(planned())
    assert described["gflops_per_image"] is described["trained_parameters"] is None
    assert "its cost cannot be computed: on noise, objective 'fake/alike'" in described["notes"][-1]
    print_plan(recipe_file.parse("", "dots", "dots.toml"), planned())
