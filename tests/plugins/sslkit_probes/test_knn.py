"""kNN against scikit-learn on the same features, and its errors for invalid input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from sslkit.api import Labelled
from sslkit.errors import DataError
from sslkit_probes import knn
from sslkit_probes.knn import KNN


def blobs(n: int, seed: int, classes: int = 5, width: int = 12) -> Labelled:
    """Make overlapping clusters of unequal size, so that neighbours disagree."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=rng).minimum(torch.randint(0, classes, (n,), generator=rng))
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return Labelled(centres[labels] + 1.5 * torch.randn(n, width, generator=rng), labels)


@pytest.mark.parametrize("k", [1, 7, 20, 300])
@pytest.mark.parametrize("weights", ["temperature", "uniform"])
def test_agrees_with_scikit_learn(k, weights):
    train, test = blobs(300, 0), blobs(200, 1)
    vote = "uniform" if weights == "uniform" else (lambda distance: np.exp((1 - distance) / 0.07))
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=vote)
    reference.fit(train.features.double().numpy(), train.labels.numpy())
    expected = reference.predict(test.features.double().numpy())
    probe = KNN(k=k, weights=weights)
    assert probe.predict(train, test.features).tolist() == expected.tolist()
    metrics = probe.evaluate(train, test)
    assert metrics["top1"] == pytest.approx((expected == test.labels.numpy()).mean())
    assert metrics["balanced"] == pytest.approx(balanced_accuracy_score(test.labels.numpy(), expected))


def several(n: int, seed: int, ignored: bool = False) -> Labelled:
    """Make sets of labels that depend on the features."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=rng)
    labels = x @ torch.randn(6, 4, generator=torch.Generator().manual_seed(5)) > 1
    unknown = torch.rand(n, 4, generator=rng) < 0.3 if ignored else None
    return Labelled(x, labels if unknown is None else labels & ~unknown, ignored=unknown)


@pytest.mark.parametrize("weights", ["temperature", "uniform"])
def test_scores_of_sets_of_labels_are_scikit_learns_probabilities(weights):
    train, test = several(200, 0), several(150, 1)
    vote = "uniform" if weights == "uniform" else (lambda distance: np.exp((1 - distance) / 0.07))
    reference = KNeighborsClassifier(15, metric="cosine", algorithm="brute", weights=vote)
    reference.fit(train.features.double().numpy(), train.labels.int().numpy())
    expected = np.stack([one[:, 1] for one in reference.predict_proba(test.features.double().numpy())], 1)
    probe = KNN(k=15, weights=weights)
    np.testing.assert_allclose(probe.scores(train, test.features).numpy(), expected, atol=1e-5)
    metrics = probe.evaluate(train, test)
    expected_map = average_precision_score(test.labels.numpy(), expected, average="macro")
    assert metrics["map"] == pytest.approx(expected_map, abs=2e-3)  # float32 orders near ties differently
    assert metrics["map"] > metrics["chance"] + 0.2


def test_neighbours_vote_only_where_they_are_known():
    train, test = several(120, 2, ignored=True), several(40, 3)
    probe = KNN(k=120, weights="uniform")
    known = (~train.ignored).double().sum(0)
    expected = (train.labels.double().sum(0) / known).expand(40, 4)
    torch.testing.assert_close(probe.scores(train, test.features), expected)


def test_chance_is_the_share_of_the_most_common_training_label():
    train = Labelled(torch.randn(6, 3), torch.tensor([2, 2, 2, 2, 0, 1]))
    test = Labelled(torch.randn(4, 3), torch.tensor([2, 0, 0, 1]))
    assert KNN(k=1).evaluate(train, test)["chance"] == 0.25


def test_chunks_do_not_change_results(monkeypatch):
    train, test = blobs(100, 2), blobs(57, 3)
    whole = KNN().predict(train, test.features)
    monkeypatch.setattr(knn, "_PAIRS", 700)
    assert torch.equal(KNN().predict(train, test.features), whole)
    sets = several(100, 2)
    torch.testing.assert_close(
        KNN().scores(sets, sets.features[:30]),
        torch.cat([KNN().scores(sets, part) for part in sets.features[:30].split(11)]),
        atol=1e-6,
        rtol=0,
    )


def test_a_tie_goes_to_the_smaller_label():
    train = Labelled(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([3, 1]))
    assert KNN(k=2).predict(train, torch.tensor([[1.0, 1.0]])).item() == 1


def test_large_similarities_do_not_overflow():
    train = blobs(50, 4)
    assert KNN(temperature=1e-4).evaluate(train, train)["top1"] == 1


def test_zero_features_are_allowed():
    train = blobs(30, 5)
    zeros = Labelled(torch.zeros(3, 12), torch.zeros(3, dtype=torch.int64))
    assert 0 <= KNN(k=5).evaluate(train, zeros)["top1"] <= 1


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (blobs(19, 0), blobs(5, 1), "needs 20 training samples and one test sample, but there are 19 and 5"),
        (blobs(30, 0), Labelled(torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64)), "there are 30 and 0"),
        (
            Labelled(torch.full((20, 2), torch.nan), torch.arange(20)),
            blobs(5, 1, width=2),
            "20 of 20 training",
        ),
    ],
)
def test_invalid_input_is_reported(train, test, words):
    with pytest.raises(DataError, match=words):
        KNN().evaluate(train, test)
