"""Standard errors of scores, against the spread of simulated ones."""

from __future__ import annotations

import math

import pytest
import torch

from sslkit.api import Labelled
from sslkit.probes.noise import difference_error, sample_count, sample_counts
from sslkit_probes.metrics import score_metrics


def single(count):
    return Labelled(torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64))


def sets(labels):
    return Labelled(torch.zeros(len(labels), 2), labels, tuple("abcdefgh")[: labels.shape[1]])


def test_the_counts_of_both_kinds_of_labels():
    assert sample_counts(single(37)) == {"count_test": 37.0}
    labels = torch.zeros(100, 4, dtype=torch.bool)
    labels[:10, 0] = labels[:5, 1] = labels[:20, 2] = True  # the fourth category has no positive: it is not in `map`
    counts = sample_counts(sets(labels))
    assert counts["count_test"] == 100
    assert counts["count_effective"] == pytest.approx(9 / (1 / 10 + 1 / 5 + 1 / 20))
    assert sample_counts(sets(torch.ones(6, 4, dtype=torch.bool)))["count_effective"] == 6, "no more than images"
    assert sample_counts(sets(torch.zeros(6, 4, dtype=torch.bool)))["count_effective"] == 0


def test_the_count_of_a_metric():
    scores = {"count_test": 50.0, "count_effective": 20.0}
    assert (sample_count("top1", scores), sample_count("map", scores)) == (50, 20)
    assert sample_count("top1", {"top1": 0.5}) is None


@pytest.mark.parametrize(("a", "b", "count"), [(0.3, 0.4, 600), (0.02, 0.1, 400), (0.5, 0.5, 60)])
def test_the_error_of_top1_is_the_spread_of_simulated_differences(a, b, count):
    rng = torch.Generator().manual_seed(0)
    shares = [(torch.rand(4000, count, generator=rng) < p).double().mean(1) for p in (a, b)]
    spread = (shares[0] - shares[1]).std().item()
    assert difference_error(a, b, count, count) == pytest.approx(spread, rel=0.06)


def test_the_error_is_the_formula_and_never_zero():
    """Agresti and Caffo: add a success and a failure to each sample."""
    p, q = (0.25 * 20 + 1) / 22, (0.5 * 30 + 1) / 32
    assert difference_error(0.25, 0.5, 20, 30) == pytest.approx(math.sqrt(p * (1 - p) / 22 + q * (1 - q) / 32))
    assert difference_error(1.0, 1.0, 10, 10) > 0.09
    assert difference_error(0.0, 0.0, 10, 10) > 0.09


@pytest.mark.parametrize(("shares", "gap"), [((0.3, 0.2, 0.1), 1.0), ((0.5, 0.4, 0.3, 0.2), 0.5), ((0.05, 0.4), 2.0)])
def test_the_error_of_map_is_near_the_spread_of_simulated_ones(shares, gap):
    """Positives score higher than negatives by `gap` standard deviations; the error is not much off for any mixture."""
    rng, values, counts = torch.Generator().manual_seed(1), [], []
    for _ in range(300):
        labels = torch.rand(300, len(shares), generator=rng) < torch.tensor(shares)
        scores = torch.randn(labels.shape, generator=rng) + gap * labels
        values.append(score_metrics(scores, sets(labels))["map"])
        counts.append(sample_counts(sets(labels))["count_effective"])
    mean, count = torch.tensor(values).mean().item(), torch.tensor(counts).mean().item()
    error = difference_error(mean, mean, count, count) / math.sqrt(2)
    assert 0.8 < error / torch.tensor(values).std().item() < 2.5
