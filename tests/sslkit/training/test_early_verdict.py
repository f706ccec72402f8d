"""The early verdict: when it is due, when it is silent, and the causes that it names."""

import dataclasses
import math

import pytest

from sslkit.training import early_verdict
from sslkit.training.early_verdict import WARN_AFTER, Baseline, EarlyVerdict, LearningTraits, causes

SOUND = LearningTraits(single_cell={}, plain_projectors=(), blurred={}, weak_colour={}, lr=3e-3)
KNN, LINEAR = "probe.knn.top1", "probe.linear.top1"
BASELINES = {KNN: Baseline(0.2, "random weights", 500), LINEAR: Baseline(0.3, "random weights, calibrated", 500)}
LOW = {KNN: 0.2, LINEAR: 0.3}


def verdict(images=100_000, **changes):
    return EarlyVerdict(dataclasses.replace(SOUND, **changes), images)


def test_the_standard_error_is_that_of_a_share_of_independent_crops():
    assert Baseline(0.2, "", 500).error == pytest.approx(math.sqrt(0.2 * 0.8 / 500))
    assert Baseline(1.0, "", 10).error == 0.0
    assert Baseline(0.5, "", 100).error == pytest.approx(0.05)


@pytest.mark.parametrize(("images", "after"), [(50_000, WARN_AFTER), (200_000, WARN_AFTER), (1_000_000, 100_000)])
def test_it_waits_for_a_number_of_images_or_a_tenth_of_the_run(images, after):
    one = verdict(images)
    assert one.warn_after == after
    assert not one.update(1, after - 1, LOW, BASELINES, {})
    assert one.update(2, after, LOW, BASELINES, {})


def test_it_warns_once_with_the_scores_and_what_they_are_compared_with():
    one = verdict()
    message = one.update(400, 25_600, {KNN: 0.19, LINEAR: 0.31}, BASELINES, {})
    assert message.startswith(
        "step 400, 25,600 images seen: no online probe is above random weights by more than a standard error "
        "(probe.knn.top1 0.190, random weights 0.200 +- 0.018; "
        "probe.linear.top1 0.310, random weights, calibrated 0.300 +- 0.020)\n    likely cause: "
    )
    assert not one.update(800, 51_200, LOW, BASELINES, {})


def test_one_score_above_its_baseline_is_enough_for_silence():
    error = BASELINES[LINEAR].error
    assert not verdict().update(400, 25_600, {KNN: 0.1, LINEAR: 0.3 + 1.01 * error}, BASELINES, {})
    assert verdict().update(400, 25_600, {KNN: 0.1, LINEAR: 0.3 + 0.99 * error}, BASELINES, {})


def test_probes_measured_at_other_steps_count_with_their_newest_score():
    one = verdict()
    one.update(300, 19_200, {LINEAR: 0.5}, BASELINES, {})
    assert not one.update(400, 25_600, {KNN: 0.1}, BASELINES, {})
    one.update(600, 38_400, {LINEAR: 0.1}, BASELINES, {})
    assert one.warned


def test_without_scores_or_baselines_there_is_no_verdict():
    assert not verdict().update(400, 25_600, {}, BASELINES, {})
    assert not verdict().update(400, 25_600, LOW, {}, {})


def test_a_restored_state_does_not_warn_again():
    one, other = verdict(), verdict()
    assert one.update(400, 25_600, LOW, BASELINES, {})
    other.load_state_dict(one.state_dict())
    assert not other.update(800, 51_200, LOW, BASELINES, {})
    assert other.newest == LOW


@pytest.mark.parametrize(
    ("changes", "terms", "words"),
    [
        ({"single_cell": {"scene": 32, "instance": 16}}, {},
         "reduces views of 32 px (group 'scene') and views of 16 px (group 'instance') to a map of 1 x 1"),
        ({}, {"prediction_std": 0.13}, "nearly the same (prediction_std 0.13, healthy above 0.2): raise the target's"),
        ({"plain_projectors": ("main",)}, {"prediction_std": 0.13},
         "write last_norm = true in the projector of [heads.main]"),
        (
            {"weak_colour": {"scene": (32, 0.2, 0.1), "instance": (16, 0.2, 0.1)}}, {},
            (
                "saturation = 0.2 and hue = 0.1 of group 'scene' (32 px) are meant for photos at 224 px; write "
                "saturation = 0.8 and hue = 0.2 in [[augment.scene]], [[augment.instance]]"
            ),
        ),
        ({"blurred": {"scene": 32}}, {}, "write blur = 0.0 in [[augment.scene]]"),
    ],
)  # fmt: skip
def test_each_cause_says_what_was_seen_and_what_to_write(changes, terms, words):
    first, *others = causes(dataclasses.replace(SOUND, **changes), terms)
    assert words in first
    assert len(others) == 1
    assert "peak 0.003" in others[0]


def test_a_sound_recipe_leaves_time_and_learning_rate():
    (only,) = causes(SOUND, {"prediction_std": 0.5, "feature_std": 0.01})
    assert only.startswith("too few steps so far, or a learning rate")


def test_a_run_warns_once_names_what_its_recipe_has_and_a_resume_is_silent(run, monkeypatch, capsys):
    monkeypatch.setattr(early_verdict, "WARN_AFTER", 8)
    sets = ("epochs=4", "probes.nearest={size=16, test_share=0.5, every=1}")
    monkeypatch.setattr(Baseline, "error", 1.0)
    run(*sets, stop_after=3)
    message = capsys.readouterr().err
    assert message.count("warning: step 2, 8 images seen: no online probe is above random weights") == 1
    assert "[[augment.scene]]" in message, "views of 24 px with the usual blur and colours"
    run(*sets)
    assert "no online probe" not in capsys.readouterr().err


def test_traits_are_those_of_the_recipe(train_step):
    made = train_step("augment.scene=[{size=24, blur=0.0, saturation=0.8, hue=0.2}]").state.verdict.traits
    assert (made.blurred, made.weak_colour, made.single_cell, made.plain_projectors) == ({}, {}, {}, ())
    assert train_step("augment.scene=[{size=96}]").state.verdict.traits.blurred == {}
    usual = train_step("augment.scene=[{size=24, blur=0.5}, {size=24, blur=0.0}]").state.verdict.traits
    assert usual.blurred == {"scene": 24}
    assert usual.weak_colour == {"scene": (24, 0.2, 0.1)}


def test_a_map_of_one_cell_is_known_from_the_plan(train_step):
    assert train_step("augment.scene=[{size=9}]").state.verdict.traits.single_cell == {"scene": 9}
