"""Cost against closed forms, and what dropping an objective saves."""

from __future__ import annotations

import dataclasses

import pytest

from sslkit.networks import cost
from sslkit.planning import recipe
from sslkit.planning.planner import make_plan


@pytest.fixture
def planned(plugins, recipe_text):
    def planned(*sets, more="", drop=()):
        values = recipe.parse(recipe_text + more, "dots", "dots.toml", sets)
        for name in drop:
            del values.values["objectives"][name]
        made, problems = recipe.structure(values)
        assert made, problems
        plan, problems = make_plan(made, plugins)
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
    made = cost.measure(planned())
    assert made.flops == 2 * (online + target)  # two views
    weights = (8 * 3 * 9 + 8) + 16 + (8 * 8 * 9 + 8) + (8 * 6 + 6)
    assert made.target_parameters == weights
    assert made.online_parameters == weights + 6 * 6 + 6


PARTS = "\n[objectives.parts]\n[[augment.part]]\nsize = 24\n"


def test_dropping_what_reads_parts_saves_their_pass(planned) -> None:
    both = cost.measure(planned("sampler.parts=3", more=PARTS))
    alone = cost.measure(planned("sampler.parts=3", more=PARTS, drop=["parts"]))
    first, second = 2 * 11 * 11 * 8 * 3 * 9, 2 * 5 * 5 * 8 * 8 * 9
    assert both.flops - alone.flops == 3 * (2 * first + 3 * second)
    assert alone.flops == cost.measure(planned()).flops


def test_dropping_what_reads_the_target_builds_none(planned) -> None:
    made = cost.measure(planned("sampler.parts=3", more=PARTS, drop=["alike"]))
    assert made.target_parameters == 0


@pytest.mark.parametrize("images", [2, 5])
def test_it_is_counted_per_image(planned, images) -> None:
    one, other = cost.measure(planned(), images), cost.measure(planned())
    assert dataclasses.replace(one, activations=0) == dataclasses.replace(other, activations=0)
    assert one.activations == pytest.approx(other.activations, rel=0.01), (
        "batch norm's statistics are kept once a batch"
    )


def test_activations_are_what_autograd_keeps(planned) -> None:
    """Two views of 24 pixels through two convolutions: what each layer needs again for its gradient."""
    kept = cost.measure(planned(), 8).activations
    first, second = 8 * 11 * 11, 8 * 5 * 5  # outputs, per view; batch norm and ReLU keep theirs, and so the pixels
    least = 2 * 4 * (3 * 24 * 24 + 2 * first)
    assert least <= kept <= 2 * 4 * (3 * 24 * 24 + 4 * first + 4 * second + 1000)
