"""Metrics against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score

from sslkit.api import Labelled
from sslkit.errors import DataError
from sslkit_probes.metrics import average_precision, score_metrics


@pytest.mark.parametrize("levels", [2, 7, 10**6])  # few levels: many scores are equal
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_average_precision_is_scikit_learns(levels, share):
    rng = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (200,), generator=rng).float()
    positive = torch.rand(200, generator=rng) < share
    positive[0] = True
    expected = average_precision_score(positive.numpy(), scores.numpy())
    assert average_precision(scores, positive).item() == pytest.approx(expected, abs=1e-12)


def test_map_leaves_out_and_counts_categories_without_positives():
    rng = torch.Generator().manual_seed(0)
    labels = torch.rand(60, 5, generator=rng) < 0.3
    labels[:, 2] = False
    scores = torch.randn(60, 5, generator=rng)
    metrics = score_metrics(scores, Labelled(torch.zeros(60, 1), labels))
    present = [0, 1, 3, 4]
    expected = average_precision_score(labels[:, present].numpy(), scores[:, present].numpy(), average="macro")
    assert metrics["map"] == pytest.approx(expected, abs=1e-12)
    assert metrics["count_left_out"] == 1


def test_chance_is_the_map_of_equal_scores():
    labels = torch.rand(80, 3, generator=torch.Generator().manual_seed(1)) < 0.4
    metrics = score_metrics(torch.zeros(80, 3), Labelled(torch.zeros(80, 1), labels))
    assert metrics["map"] == pytest.approx(metrics["chance"], abs=1e-12)


def test_ignored_labels_count_neither_way():
    rng = torch.Generator().manual_seed(2)
    labels, ignored = torch.rand(90, 3, generator=rng) < 0.3, torch.rand(90, 3, generator=rng) < 0.4
    labels &= ~ignored
    scores = torch.randn(90, 3, generator=rng)
    expected = [
        average_precision_score(labels[~ignored[:, c], c].numpy(), scores[~ignored[:, c], c].numpy()) for c in range(3)
    ]
    metrics = score_metrics(scores, Labelled(torch.zeros(90, 1), labels, ignored=ignored))
    assert metrics["map"] == pytest.approx(sum(expected) / 3, abs=1e-12)


def test_a_test_part_without_any_positive_is_refused():
    with pytest.raises(DataError, match="no test image has an object of any category"):
        score_metrics(torch.zeros(4, 3), Labelled(torch.zeros(4, 1), torch.zeros(4, 3, dtype=torch.bool)))
