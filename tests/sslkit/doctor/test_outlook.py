"""The whole recipe and its arms, from measured steps."""

from __future__ import annotations

import pytest

from sslkit.doctor import outlook
from sslkit.networks import cost

OTHER = "[objectives.parts]\n[objectives.explode]\n[[augment.part]]\nsize = 16\n"


@pytest.mark.parametrize(
    ("changes", "share", "per_image", "seconds"),
    [
        ({}, 1.0, 0.02, 0.5), ({}, 0.5, 0.02, 0.5), ({}, 0.5, 0.005, 0.125), ({}, 3.0, 0.02, 0.75),
        ({"workers": 0, "waiting": 2.0}, 1.0, 0.02, 2.25), ({"workers": 0, "waiting": 2.0}, 0.5, 0.01, 1.125),
    ],
)  # fmt: skip
def test_the_slower_side_decides_or_both_without_loader_processes(measure, changes, share, per_image, seconds):
    assert outlook.modelled_step_seconds(measure(**changes), share, per_image) == pytest.approx(seconds)


def test_arms_are_those_of_drop_each_scaled_by_their_cost(measure, planned, plugins):
    text, plan = planned("sampler.parts=2", more=OTHER)
    timed = []

    def time_image(arm_plan):
        timed.append(arm_plan)
        return 0.015

    measured = measure(waiting=0.0, loader_rate=1000.0)
    arms, why = outlook.outlook(text, plan, plugins, measured, time_image)
    assert why is None
    assert [arm.name for arm in arms] == ["full", "drop-alike", "drop-parts", "drop-explode"]
    full = cost.measure(plan).flops
    for arm in arms:
        assert arm.images_per_s == pytest.approx(400 * full / arm.cost.flops)
        assert arm.images == 2 * 12
        assert arm.hours == pytest.approx(24 / arm.images_per_s / 3600)
    assert arms[0].images_per_s == pytest.approx(measured.rate)
    assert arms[0].disk > arms[1].disk, "without the objective that reads it there is no target network"
    assert [list(arm_plan.recipe.objectives) for arm_plan in timed] == [["alike", "explode"]], (
        "equal views are timed once"
    )
    hours, disk = outlook.total(arms, 3)
    assert hours == pytest.approx(3 * sum(arm.hours for arm in arms))
    assert disk == 3 * sum(arm.disk for arm in arms)


def test_a_single_objective_has_no_other_arms(measure, planned, plugins):
    text, plan = planned()
    arms, why = outlook.outlook(text, plan, plugins, measure(), lambda _: 0.02)
    assert ([arm.name for arm in arms], why) == (["full"], None)
    assert arms[0].images_per_s == pytest.approx(200)
