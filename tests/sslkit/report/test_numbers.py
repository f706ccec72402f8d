"""How many digits are written."""

from dataclasses import replace

import pytest

from sslkit.ablation.statistics import Difference, Mean
from sslkit.report.numbers import NumberFormat, number_format, short_number

PERCENT = NumberFormat(100, 1)


@pytest.mark.parametrize(
    ("value", "text"), [(0.7134, "71.3"), (-0.0213, "−2.1"), (-0.0001, "0.0"), (0.0, "0.0"), (1.0, "100.0")]
)
def test_percent(value, text):
    assert PERCENT.plain(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0213, "+2.1"), (-0.0213, "−2.1"), (-0.0001, "0.0"), (0.0001, "0.0")])
def test_differences_have_a_sign_unless_they_are_zero(value, text):
    assert PERCENT.signed(value) == text


def test_means_and_differences():
    assert PERCENT.mean(Mean(0.713, 0.004, 3)) == "71.3 ± 0.4"
    assert PERCENT.mean(Mean(0.713, None, 1)) == "71.3"
    assert PERCENT.difference(Difference(-0.021, -0.03, -0.012, 3)) == "−2.1 [−3.0, −1.2] *"
    assert PERCENT.difference(Difference(-0.021, -0.05, 0.008, 3)) == "−2.1 [−5.0, +0.8]"
    assert PERCENT.difference(Difference(-0.021, None, None, 1)) == "−2.1"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123, "0.0123"),
        (0.959, "0.959"),
        (1.37, "1.37"),
        (12.34, "12.3"),
        (812.4, "812"),
        (12345.6, "12,346"),
    ],
)
def test_short_number(value, text):
    assert short_number(value) == text


def with_metric(results, values):
    arms = [
        replace(
            arm,
            trials=[
                replace(t, state="finished", metrics={"m": v}, references={})
                for t, v in zip(arm.trials, row, strict=False)
            ],
        )
        for arm, row in zip(results.arms, values, strict=False)
    ]
    return replace(results, arms=arms, metrics=("m",))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(0.5, 0.51, 0.49)], NumberFormat(100, 1)),  # the spread is 1 %
        ([(0.5, 0.5003, 0.4997)], NumberFormat(100, 2)),  # 0.03 %
        ([(0.5, 0.5, 0.5)], NumberFormat(100, 1)),
        ([(0.5,), (0.6,)], NumberFormat(100, 1)),
        ([(0.2, 0.9, 1.1)], NumberFormat(1, 2)),  # not a rate
        ([(812.0, 840.0, 790.0)], NumberFormat(1, 0)),
        ([(3.14159,), (2.7,)], NumberFormat(1, 2)),
    ],
)
def test_digits_follow_the_spread(results, values, expected):
    assert number_format(with_metric(results, values), "m") == expected
