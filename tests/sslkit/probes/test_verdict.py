"""The verdict on a run, in words and as data."""

from __future__ import annotations

import json

import pytest

from sslkit.probes.noise import difference_error
from sslkit.probes.verdict import judge


def scores(count=600.0, **by_probe):
    """Return the scores of a run from probe -> (pixels, random, calibrated, trained)."""
    names = ("raw pixels", "random weights", "random weights, calibrated", "trained")
    counts = {"count_test": count} if count else {}
    return {
        name: {probe: {"top1": values[place], "balanced": 0.9, **counts} for probe, values in by_probe.items()}
        for place, name in enumerate(names)
    }


def test_above_both_references_everywhere():
    verdict = judge(scores(knn=(0.2, 0.15, 0.18, 0.3), linear=(0.2, 0.25, 0.18, 0.45)))
    assert verdict.learned
    assert str(verdict) == (
        "trained is above random weights on 2 of 2 probes (+12.0 ± 4.9 on knn, +20.0 ± 5.4 on linear); "
        "it is above raw pixels on 2 of 2 probes (+10.0 ± 5.0 on knn, +25.0 ± 5.2 on linear); "
        "differences in points ± 2 standard errors of the test samples"
    )
    stronger = [item.random.reference for item in verdict.probes]
    assert stronger == ["random weights, calibrated", "random weights"]


def test_the_noise_is_two_standard_errors_of_the_difference():
    (item,) = judge(scores(knn=(0.2, 0.3, 0.18, 0.35))).probes
    assert item.random.noise == pytest.approx(2 * difference_error(0.35, 0.3, 600, 600))
    assert item.random.outcome == "noise"
    (item,) = judge(scores(60_000.0, knn=(0.2, 0.3, 0.18, 0.35))).probes
    assert item.random.outcome == "above", "with more test samples the same difference is no noise"


def test_below_is_said_plainly():
    verdict = judge(scores(knn=(0.44, 0.21, 0.13, 0.15)))
    assert not verdict.learned
    assert str(verdict).startswith(
        "trained is below random weights on 1 of 1 probe (-6.0 ± 4.4 on knn); "
        "nothing was learned that these probes can see; it is below raw pixels on 1 of 1 probe (-29.0"
    )


def test_above_below_and_noise_are_told_apart():
    verdict = judge(scores(a=(0.2, 0.2, 0.2, 0.4), b=(0.2, 0.4, 0.2, 0.2), c=(0.2, 0.2, 0.2, 0.21)))
    assert str(verdict).startswith(
        "trained is above random weights on 1 of 3 probes (+20.0 ± 5.2 on a), "
        "below random weights on 1 of 3 probes (-20.0 ± 5.2 on b), "
        "within noise of random weights on 1 of 3 probes (+1.0 ± 4.7 on c); it is above raw pixels on 1 of 3"
    )
    assert "nothing was learned" not in str(verdict)


def test_within_noise_alone_is_nothing_learned():
    assert "nothing was learned that these probes can see" in str(judge(scores(knn=(0.2, 0.2, 0.2, 0.21))))


def test_average_precision_has_the_error_of_its_effective_number_of_samples():
    values = {"map": 0.5, "count_test": 1000.0, "count_effective": 100.0}
    verdict = judge({"random weights": {"voc": values}, "trained": {"voc": values | {"map": 0.6}}})
    (item,) = verdict.probes
    assert (item.metric, item.random.reference, item.pixels) == ("map", "random weights", None)
    assert item.random.noise == pytest.approx(2 * difference_error(0.6, 0.5, 100, 100))
    assert "raw pixels" not in str(verdict)


def test_scores_of_older_runs_have_no_noise():
    verdict = judge(scores(None, knn=(0.2, 0.2, 0.3, 0.31)))
    assert str(verdict) == (
        "trained is above random weights on 1 of 1 probe (+1.0 on knn); "
        "it is above raw pixels on 1 of 1 probe (+11.0 on knn)"
    )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"raw pixels": {"knn": {"top1": 0.5}}, "random weights": {"knn": {"top1": 0.5}}},  # stopped before its end
        {"trained": {"knn": {"top1": 0.5}}, "raw pixels": {"knn": {"top1": 0.5}}},
        {"trained": {"depth": {"rmse": 0.5}}, "random weights": {"depth": {"rmse": 0.5}}},
    ],
)
def test_there_is_no_verdict_without_scores_to_compare(values):
    assert judge(values) is None


def test_the_data_says_what_the_words_say():
    described = judge(scores(knn=(0.44, 0.21, 0.13, 0.15))).describe()
    described = json.loads(json.dumps(described))
    assert described["learned"] is False
    assert described["text"].startswith("trained is below random weights")
    (item,) = described["probes"]
    assert (item["probe"], item["metric"], item["trained"]) == ("knn", "top1", 0.15)
    assert item["random"] == {
        "reference": "random weights", "value": 0.21, "difference": pytest.approx(-0.06),
        "noise": pytest.approx(2 * difference_error(0.15, 0.21, 600, 600)), "outcome": "below",
    }  # fmt: skip
    assert item["pixels"]["outcome"] == "below"
