"""Right scores pass, as numbers of Python's own."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from sslkit.contracts.scores import checked_scores, is_rate
from sslkit.plugins import Component, Owner
from tests.conftest import Nearest

COMPONENT = Component("probe", "here/nearest", Nearest, Owner("here", "here", "1"))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0), (1, 1), (0.25, 0.25), (np.float32(0.25), 0.25), (np.float64(1), 1.0), (np.int64(1), 1.0),
        (Fraction(1, 4), 0.25), (1 + 1e-7, 1 + 1e-7),
    ],
)  # fmt: skip
def test_right_scores_are_taken(value, number):
    scores = checked_scores(COMPONENT, {"top1": value, "chosen_k": 20, "count_left_out": 300.0, "chosen_lr": -1.5})
    assert scores == {"top1": number, "chosen_k": 20, "count_left_out": 300.0, "chosen_lr": -1.5}
    json.dumps(scores)


def test_rates_are_distinguished_from_settings_and_counts():
    names = ("top1", "map", "chosen_lr", "count_left_out", "top1_chosen_lr")
    assert [is_rate(name) for name in names] == [True, True, False, False, True]
