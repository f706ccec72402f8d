"""Means and paired differences, against scipy and closed forms; no mean ignores a hole."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sslkit.ablation import statistics
from sslkit.ablation.results import ArmResult, Results, Trial

READ = statistics.metric_reader("m")


def arm(*values, name="x", state="finished"):
    trials = [
        Trial(
            i, f"{name}-s{i}", state if value is not None else "failed", metrics={} if value is None else {"m": value}
        )
        for i, value in enumerate(values)
    ]
    return ArmResult(name, name, (), {}, 1.0, tuple(trials))


def test_mean_and_standard_deviation():
    result = statistics.mean(arm(0.2, 0.5, 0.8), READ)
    assert (result.value, result.std, result.n) == (pytest.approx(0.5), pytest.approx(0.3), 3)


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 2), min_size=2, max_size=9))
def test_the_interval_is_that_of_scipys_paired_t_test(pairs):
    ours, full = np.array(pairs, float).T
    if np.std(ours - full, ddof=1) < 1e-6:
        return  # scipy warns of lost precision
    result = statistics.difference(arm(*ours), READ, arm(*full))
    expected = scipy.stats.ttest_rel(ours, full).confidence_interval(0.95)
    assert result.value == pytest.approx((ours - full).mean(), abs=1e-12)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert result.n == len(pairs)
    assert result.excludes_zero == (expected.low > 0 or expected.high < 0)


def test_the_interval_of_two_pairs_in_closed_form():
    """With one degree of freedom t(0.975) is tan(0.475 pi), and the standard error is half the gap between the pairs."""
    result = statistics.difference(arm(0.5, 0.9), READ, arm(0.4, 0.5))
    half = math.tan(0.475 * math.pi) * abs(0.1 - 0.4) / 2
    assert (result.value, result.low, result.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))


def test_one_seed_has_a_difference_and_no_interval():
    result = statistics.difference(arm(0.5), READ, arm(0.4))
    assert (result.value, result.low, result.high, result.n) == (pytest.approx(0.1), None, None, 1)
    assert not result.excludes_zero
    assert statistics.mean(arm(0.5), READ) == statistics.Mean(0.5, None, 1)


def test_pairing_removes_the_effect_that_seeds_share():
    full = np.array([0.1, 0.5, 0.9])
    result = statistics.difference(arm(0.12, 0.53, 0.94), READ, arm(*full))
    assert result.excludes_zero
    assert scipy.stats.ttest_ind(full + 0.03, full).pvalue > 0.9


@pytest.mark.parametrize("holed", [arm(0.1, None), arm(0.1, math.nan), arm(None, None), arm(0.1, 0.2, state="running")])
def test_an_arm_with_a_hole_has_no_mean_and_no_difference(holed):
    assert statistics.mean(holed, READ) is None
    assert statistics.difference(holed, READ, arm(0.1, 0.2)) is None
    assert statistics.difference(arm(0.1, 0.2), READ, holed) is None


def test_an_arm_without_trials_has_no_mean():
    assert statistics.mean(arm(), READ) is None


def test_different_seeds_cannot_be_paired():
    other = replace(arm(0.1, 0.2), trials=(Trial(0, "f"), Trial(7, "g")))
    with pytest.raises(ValueError, match=r"x has seeds \[0, 7\] and x has \[0, 1\]: these cannot be paired"):
        statistics.difference(other, READ, arm(0.1, 0.2))


def results(*rows, references=()):
    arms = []
    for row in rows:
        item = arm(*row)
        trials = [
            replace(t, references={"raw": {"m": r}}) for t, r in zip(item.trials, references, strict=False)
        ] or item.trials
        arms.append(replace(item, trials=tuple(trials)))
    return Results("r", "", "", range(len(rows[0])), arms, (), (), ("m",))


@pytest.mark.parametrize(
    ("rows", "references", "expected"),
    [
        ([(0.1, 0.2), (0.1, 0.2)], (), True),
        ([(0.1, 0.2), (0.1, None)], (), True),
        ([(0.1, 0.2), (0.1, 0.3)], (), False),
        ([(0.1, 0.2)], (0.1, 0.2), True),
        ([(0.1, 0.2)], (0.1, 0.3), False),
        ([(0.1, 0.2)], (), False),
        ([(None, None)], (), False),
    ],
)
def test_a_metric_is_constant_when_no_row_differs_at_any_seed(rows, references, expected):
    assert statistics.is_constant(results(*rows, references=references), "m") is expected


def test_references_are_compared_at_equal_seeds():
    compared = results((0.5, 0.7), references=(0.4, 0.5))
    assert statistics.reference_names(compared) == ["raw"]
    result = statistics.difference(compared.full, statistics.reference_reader("raw", "m"), compared.full, READ)
    assert result.value == pytest.approx(-0.15)
