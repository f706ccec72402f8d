"""Results as JSON and back."""

import datetime
import json
import math
from dataclasses import replace

import pytest

from sslkit.ablation.results import ArmResult, Results, Trial, dump, load


def results(**changes):
    trial = Trial(
        3, "runs/a-s3", "finished", "", {"knn top1": 0.5}, {"raw pixels": {"knn top1": 0.25}}, 10.5, 1.5, 2**31
    )
    arm = ArmResult("full", "ab", ("a", "b"), {"x.y": (None, [1, {"z": "w"}])}, 3.5, (trial, Trial(4, "runs/a-s4")))
    results = Results(
        "r", "s", "c", (3, 4), (arm,), ("a", "b"), ("x.y",), ("knn top1",), versions={"torch": "2"}, notes=("n",)
    )
    return replace(results, **changes)


def through(value):
    return load(json.loads(json.dumps(dump(value), allow_nan=False)))


def test_loading_restores_dumped_results():
    assert through(results()) == results()


def test_other_keys_beside_the_results_are_ignored():
    assert load(dump(results()) | {"table": [1]}) == results()


def test_metrics_that_are_not_finite_are_null_in_json_and_nan_in_python():
    arm = ArmResult("full", "ab", (), {}, 1.0, (Trial(0, "f", "finished", metrics={"knn top1": math.inf}),))
    [loaded] = through(results(arms=(arm,))).arms
    assert math.isnan(loaded.trials[0].metrics["knn top1"])


def test_settings_that_json_cannot_hold_become_text():
    changes = {"a.b": (math.inf, -math.inf), "a.c": (datetime.date(2024, 5, 1), {"d": [math.nan]})}
    arm = ArmResult("full", "ab", (), changes, 1.0, ())
    [loaded] = through(results(arms=(arm,))).arms
    assert loaded.changes == {"a.b": ("inf", "-inf"), "a.c": ("2024-05-01", {"d": ["nan"]})}


@pytest.mark.parametrize("values", [{}, {"format": 99}])
def test_another_format_is_refused(values):
    with pytest.raises(ValueError, match="not results of format 1: their 'format' is"):
        load(values)


def test_finished_trials_are_counted():
    assert results().full.finished == 1
