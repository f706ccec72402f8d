"""The whole recipe and its arms, from measured steps."""

from __future__ import annotations

import pytest

from sslkit.doctor import outlook
from sslkit.networks.cost import measure

OTHER = "[objectives.parts]\n[objectives.explode]\n[[augment.part]]\nsize = 16\n"


@pytest.mark.parametrize(
    ("given", "share", "photo", "seconds"),
    [
        ({}, 1.0, 0.02, 0.5), ({}, 0.5, 0.02, 0.5), ({}, 0.5, 0.005, 0.125), ({}, 3.0, 0.02, 0.75),
        ({"workers": 0, "waiting": 2.0}, 1.0, 0.02, 2.25), ({"workers": 0, "waiting": 2.0}, 0.5, 0.01, 1.125),
    ],
)  # fmt: skip
def test_the_slower_side_decides_or_both_where_there_is_no_loader_process(figures, given, share, photo, seconds):
    assert outlook.modelled(figures(**given), share, photo) == pytest.approx(seconds)


def test_arms_are_those_of_drop_each_scaled_by_what_they_are(figures, planned, plugins):
    text, plan = planned("sampler.parts=2", more=OTHER)
    timed = []

    def photo(one):
        timed.append(one)
        return 0.015

    given = figures(waiting=0.0, loader=1000.0)
    made, why = outlook.outlook(text, plan, plugins, given, photo)
    assert why is None
    assert [arm.name for arm in made] == ["full", "drop-alike", "drop-parts", "drop-explode"]
    full = measure(plan).flops
    for arm in made:
        assert arm.images_per_s == pytest.approx(400 * full / arm.cost.flops)
        assert arm.images == 2 * 12
        assert arm.hours == pytest.approx(24 / arm.images_per_s / 3600)
    assert made[0].images_per_s == pytest.approx(given.now)
    assert made[0].disk > made[1].disk, "without the objective that reads it there is no target network"
    assert [list(one.recipe.objectives) for one in timed] == [["alike", "explode"]], (
        "views that are those of another arm are not timed again"
    )
    hours, disk = outlook.total(made, 3)
    assert hours == pytest.approx(3 * sum(arm.hours for arm in made))
    assert disk == 3 * sum(arm.disk for arm in made)


def test_one_objective_has_no_arms_and_one_that_cannot_go_is_told(figures, planned, plugins):
    text, plan = planned()
    made, why = outlook.outlook(text, plan, plugins, figures(), lambda _: 0.02)
    assert ([arm.name for arm in made], why) == (["full"], None)
    assert made[0].images_per_s == pytest.approx(200)
