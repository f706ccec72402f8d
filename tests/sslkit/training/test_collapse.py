"""The sentinel on series of values: what is no collapse, what is one, and what is message of it."""

import dataclasses

import numpy as np
import pytest

from sslkit.training import collapse
from sslkit.training.collapse import CollapseDetector, RecipeTraits, causes

SOUND = RecipeTraits(
    predicts=True, couples=False, target=True, momentum=(0.99, 1.0), batch_norm=True, images=32, lr=3e-3, warmup=64
)
GRACE, PATIENCE = collapse.GRACE[0], collapse.PATIENCE


def traits(**changes):
    return dataclasses.replace(SOUND, **changes)


def alarms(series, given=SOUND, **options):
    watching = CollapseDetector(given)
    found = (watching.update(step, terms, **options) for step, terms in enumerate(series, 1))
    return [alarm for alarm in found if alarm]


def along(points, steps):
    """Interpolate {step: value} for steps 1 to `steps`, with some noise."""
    rng = np.random.default_rng(0)
    return np.interp(np.arange(1, steps + 1), [*points], [*points.values()]) * rng.uniform(0.97, 1.03, steps)


def flat(std=0.001, **more):
    return {"feature_std": std, "uniformity": -4 * std**2, "target_similarity": 0.9999, "loss": -2.0, **more}


# ------------------------------------------------------------------------------------------------ no alarm


def test_features_that_narrow_and_spread_again_are_no_collapse():
    """As UniVIP's predictions do in the quickstart: 0.83, down to 0.11 and back up to 0.40."""
    stds = along({1: 0.83, 32: 0.11, 90: 0.12, 160: 0.25, 320: 0.40}, 320)
    similarities = along({1: 0.999, 60: 0.5, 320: 0.75}, 320)
    series = [
        {"feature_std": s, "prediction_std": s, "uniformity": -4 * s**2, "target_similarity": c}
        for s, c in zip(stds, similarities, strict=True)
    ]
    assert not alarms(series)


def test_a_dip_to_nothing_that_ends_in_time_is_no_collapse():
    dip = [flat()] * (GRACE + PATIENCE - 1) + [flat(0.5)]
    assert not alarms(dip + [flat()] * (PATIENCE - 1) + [flat(0.3)] * 100)


def test_a_rank_as_in_a_healthy_run_is_no_collapse():
    ranks = {1: 68.0, 40: 17.0, 160: 10.3, 320: 7.4}
    series = [{"feature_std": 0.7} for _ in range(320)]
    for step, value in ranks.items():
        series[step - 1] |= {"rankme.projection": value, "rankme.projection_d": 128}
    assert not alarms(series)


def test_a_network_at_rest_in_its_target_is_no_collapse_while_it_is_spread():
    assert not alarms([flat(0.8)] * 500)


# --------------------------------------------------------------------------------------------------- alarm


def test_constant_features_are_told_once_as_soon_as_they_have_lasted():
    (alarm,) = alarms([flat(0.8)] * 20 + [flat()] * 500)
    assert (alarm.sign, alarm.step) == ("constant", GRACE + PATIENCE)
    assert alarm.values["feature_std"] == 0.001


def test_a_stopped_run_that_goes_on_is_stopped_again():
    assert len(alarms([flat()] * (GRACE + PATIENCE + 2), once=False)) == 3


def test_narrow_features_count_where_the_target_agrees():
    assert alarms([flat(0.08)] * 400)
    assert not alarms([flat(0.08, target_similarity=0.9)] * 400)


def test_a_few_outliers_do_not_hide_a_collapse():
    """feature_std is a mean over dimensions and is lifted by outliers; uniformity is not."""
    assert alarms([flat(0.2, uniformity=-0.005, target_similarity=0.5)] * 400)


def test_a_predictor_that_settles_on_one_vector_is_told_apart():
    (alarm,) = alarms([flat(0.7, prediction_std=0.02)] * 300)
    assert (alarm.sign, alarm.step) == ("constant-predictions", GRACE + PATIENCE)
    assert "(now 0.99)" in alarm.message.splitlines()[1]
    assert [alarm.sign for alarm in alarms([flat(0.001, prediction_std=0.001)] * 300)] == ["constant"]


def test_few_dimensions_need_measurements_in_a_row():
    low = {"feature_std": 0.7, "rankme.features": 3.0, "rankme.features_d": 256, "rankme.features_n": 512}
    between = [{"feature_std": 0.7}] * 49
    series = [low if step % 50 == 0 else {"feature_std": 0.7} for step in range(1, 600)]
    (alarm,) = alarms(series)
    assert (alarm.sign, alarm.step) == ("few-dimensions", 250)
    assert "rankme.features 3, rankme.features_n 512, rankme.features_d 256" in alarm.message
    high = low | {"rankme.features": 30.0}
    assert not alarms([low, *between, low, *between, high, *between] * 6)


def test_a_long_warm_up_postpones_alarms_within_bounds():
    assert alarms([flat()] * 2000, traits(warmup=300))[0].step == 300 + PATIENCE
    assert alarms([flat()] * 2000, traits(warmup=50_000))[0].step == collapse.GRACE[1] + PATIENCE


def test_a_resumed_sentinel_says_what_an_uninterrupted_one_says():
    series = [flat(0.8)] * 10 + [flat()] * (GRACE + PATIENCE)
    whole = alarms(series)
    for cut in (5, GRACE + 3, GRACE + PATIENCE - 1, GRACE + PATIENCE + 5):
        first, second = CollapseDetector(SOUND), CollapseDetector(SOUND)
        alarms_seen = [first.update(step, terms) for step, terms in enumerate(series[:cut], 1)]
        second.load_state_dict(first.state_dict())
        alarms_seen += [second.update(step, terms) for step, terms in enumerate(series[cut:], cut + 1)]
        assert [alarm for alarm in alarms_seen if alarm] == whole


# --------------------------------------------------------------------------------------------------- cause


def test_the_message_has_step_values_cause_and_what_to_change():
    series = [flat(0.83, loss=-0.1)] + [flat()] * 200
    (alarm,) = alarms(series, traits(predicts=False))
    assert alarm.message.splitlines()[0] == (
        "collapse at step 150: the features are nearly the same for all images, for 50 steps in a row "
        "(loss -2, feature_std 0.001, uniformity -4e-06, target_similarity 0.9999; "
        "step 1 had loss -0.1, feature_std 0.83, uniformity -2.756, target_similarity 0.9999)"
    )
    likely = alarm.message.splitlines()[1]
    assert likely.startswith(
        "    likely cause: no objective compares images with each other and none reads a predictor"
    )
    assert "write a predictor in [heads.NAME]" in likely


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predicts": False}, "nothing keeps the networks from one constant"),
        ({"target": False}, "there is no target network"),
        ({"momentum": (0.0, 1.0)}, "is a copy of the online network: [target] momentum = 0;"),
        ({"momentum": (0.5, 1.0)}, "follows the online network closely: [target] momentum = 0.5;"),
        ({"momentum": (1.0, 1.0)}, "the target never moves"),
        ({"batch_norm": False}, 'write norm = "batch"'),
        ({"images": 4}, "statistics over 4 images per micro-batch"),
        ({}, "the learning rate is too high for the start (peak 0.003, a warm-up of 64 steps)"),
        ({"warmup": 0, "couples": True}, "(peak 0.003, no warm-up)"),
    ],
)
def test_the_likely_cause_is_what_the_recipe_lacks(changes, message):
    assert message in causes(traits(**changes), {})[0]


def test_equal_views_come_first():
    assert (
        "the same (alignment 0 in step 1)" in causes(traits(predicts=False), {"alignment": 0.0, "feature_std": 0.8})[0]
    )
    assert "alignment" not in causes(SOUND, {"alignment": 0.0, "feature_std": 0.0})[0]


def test_few_dimensions_of_a_contrastive_recipe_point_to_its_weight():
    assert "weighs too little" in causes(traits(couples=True), {}, "few-dimensions")[0]
    assert len(causes(traits(couples=True), {})) == 1
