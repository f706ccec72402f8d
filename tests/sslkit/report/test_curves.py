"""Logs read and thinned."""

import json
import math

import numpy as np
import pytest

from sslkit.report import curves
from sslkit.storage.run_folder import METRICS


def log(folder, *lines):
    (folder / METRICS).write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


def test_a_log_becomes_curves(tmp_path):
    log(tmp_path, {"step": 1, "epoch": 0.5, "loss": 2.0}, {"step": 2, "epoch": 1.0, "loss": None, "std": 1})
    assert curves.read_log(tmp_path) == {"loss": ([1, 2], [2.0, None]), "std": ([2], [1])}


def test_truncated_and_foreign_lines_are_skipped(tmp_path):
    log(tmp_path, "\n", "[1]\n", '{"loss": 1}\n', '{"step": true}\n', {"step": 3, "loss": 1.0, "note": "x", "ok": True},
        '{"step": 4, "lo')  # fmt: skip
    assert curves.read_log(tmp_path) == {"loss": ([3], [1.0])}


def test_infinities_that_python_wrote_are_gaps(tmp_path):
    log(tmp_path, '{"step": 1, "loss": NaN}\n', '{"step": 2, "loss": Infinity}\n')
    assert curves.read_log(tmp_path) == {"loss": ([1, 2], [None, None])}


def test_a_missing_log_is_an_empty_one(tmp_path):
    assert curves.read_log(tmp_path / "nowhere") == {}


def test_short_curves_are_unchanged():
    thinned = curves.thin([1, 2, 3], [0.5, None, 0.7])
    assert thinned == curves.ThinnedCurve([1, 2, 3], [(0.5, 0.5, 0.5), None, (0.7, 0.7, 0.7)])


def test_long_curves_keep_every_spike_and_their_means():
    values = np.random.default_rng(0).normal(size=10_000)
    values[1234] = 50.0
    thinned = curves.thin(list(range(10_000)), values.tolist())
    assert len(thinned.steps) == 100
    parts = values.reshape(100, 100)
    expected = np.stack([parts.min(1), parts.mean(1), parts.max(1)], 1)
    np.testing.assert_allclose(thinned.values, expected, rtol=0, atol=1e-12)
    assert thinned.steps[:2] == [49.5, 149.5]


def test_an_interval_without_a_finite_value_is_a_gap():
    thinned = curves.thin(list(range(600)), [None if 40 <= i < 53 else 1.0 for i in range(600)])
    assert [i for i, value in enumerate(thinned.values) if value is None] == [7]


def test_a_page_has_a_bounded_number_of_points(results, monkeypatch):
    monkeypatch.setattr(curves, "PAGE_POINTS", 9_000)
    trial_curves = curves.read_curves(results)
    assert len(trial_curves) == 15
    count = sum(3 * len(curve.steps) for trial in trial_curves for curve in trial.curves.values())
    assert 5_000 < count <= 9_000
    assert {trial.arm for trial in trial_curves} == set(range(5))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0.00011, 0.00042), (1e5, 9e5), (2.5, 2.6)])
def test_ticks_are_round_and_inside(low, high):
    ticks = curves.axis_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high + 1e-12 for tick in ticks)
    gap = ticks[1] - ticks[0]
    assert round(gap / 10 ** math.floor(math.log10(gap) + 1e-9), 6) in {1, 2, 5}


def test_a_few_extreme_values_do_not_flatten_the_rest():
    usual = [float(i % 10) for i in range(1000)]
    assert curves.axis_limits([*usual, 1e6, -1e6]) == pytest.approx((-0.36, 9.36))
    assert curves.axis_limits(usual[:10]) == pytest.approx((-0.36, 9.36))
    low, high = curves.axis_limits([2.0])
    assert low < 2.0 < high
    low, high = curves.axis_limits([0.0])
    assert low < 0.0 < high
