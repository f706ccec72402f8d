"""Metrics of predictions, and checks of the data that probes receive."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkit.api import Labelled
from sslkit.errors import DataError

Metrics = dict[str, float]


def label_metrics(predicted: Tensor, train: Labelled, test: Labelled) -> Metrics:
    """Measure predicted labels, shape (n,).

    Returns:
        `top1`; `balanced`, the mean of the test categories' accuracies; `chance`, the accuracy of always predicting the
        most common training label.
    """
    correct = (predicted == test.labels).double()
    balanced = torch.stack([correct[test.labels == label].mean() for label in torch.unique(test.labels)]).mean()
    chance = (test.labels == train.labels.bincount().argmax()).double().mean()
    return {"top1": correct.mean().item(), "balanced": balanced.item(), "chance": chance.item()}


def score_metrics(scores: Tensor, test: Labelled) -> Metrics:
    """Measure scores of all categories, shape (n, c), against sets of labels.

    Returns:
        `map`, the mean of the categories' average precisions; `chance`, the `map` of equal scores for all images, which
        is the mean share of positives; `count_left_out`, the number of categories without a positive in the test part.

    Raises:
        DataError: No category has a positive in the test part.
    """
    precisions, shares = [], []
    for category in range(test.labels.shape[1]):
        known = slice(None) if test.ignored is None else ~test.ignored[:, category]
        positive = test.labels[known, category]
        if positive.any():
            precisions.append(average_precision(scores[known, category], positive))
            shares.append(positive.double().mean())
    if not precisions:
        raise DataError("no test image has an object of any category, so no average precision exists: use more images")
    count_left_out = test.labels.shape[1] - len(precisions)
    return {
        "map": torch.stack(precisions).mean().item(),
        "chance": torch.stack(shares).mean().item(),
        "count_left_out": float(count_left_out),
    }


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the area under the precision-recall steps, as a scalar in float64.

    The sum over thresholds of (recall gained) * precision, without interpolation: scikit-learn's
    `average_precision_score`, not the 11 points of VOC 2007. Equal scores share one threshold.

    Args:
        scores: Shape (n,).
        positive: Shape (n,), bool; at least one is true.
    """
    ordered, order = scores.sort(descending=True, stable=True)
    true_positives = positive[order].double().cumsum(0)
    rank = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    gained = true_positives[is_last].diff(prepend=true_positives.new_zeros(1))
    return (gained * (true_positives / rank)[is_last]).sum() / true_positives[-1]


def check_parts(train: Labelled, test: Labelled) -> None:
    """Check that both parts can be measured.

    Raises:
        DataError: A part is empty, or features are not finite.
    """
    for name, part in (("training", train), ("test", test)):
        if not len(part):
            raise DataError(f"there are no {name} samples: use more images")
        count = int((~part.features.isfinite()).any(1).sum())
        if count:
            raise DataError(f"{count} of {len(part)} {name} features are not finite: has the run diverged?")
