"""What is said of predictions, and what probes refuse."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkit.api import Labelled
from sslkit.errors import DataError

Figures = dict[str, float]


def of_labels(predicted: Tensor, train: Labelled, test: Labelled) -> Figures:
    """Measure one predicted label each, shape (n,).

    Returns:
        `top1`; `balanced`, the mean of the test categories' accuracies; `chance`, what always guessing the commonest
        training label gives.
    """
    right = (predicted == test.labels).double()
    balanced = torch.stack([right[test.labels == label].mean() for label in torch.unique(test.labels)]).mean()
    chance = (test.labels == train.labels.bincount().argmax()).double().mean()
    return {"top1": right.mean().item(), "balanced": balanced.item(), "chance": chance.item()}


def of_scores(scores: Tensor, test: Labelled) -> Figures:
    """Measure a score for each category, shape (n, c), against sets of labels.

    Returns:
        `map`, the mean of the categories' average precisions; `chance`, what equal scores for all give, which is the
        mean share of positives; `count_left_out`, categories without a positive in the test part, which have none.

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
        raise DataError("no test image has an object of any category: there is nothing to rank; use more images")
    left_out = test.labels.shape[1] - len(precisions)
    return {
        "map": torch.stack(precisions).mean().item(),
        "chance": torch.stack(shares).mean().item(),
        "count_left_out": float(left_out),
    }


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the area below the precision-recall steps, as a scalar in float64.

    The sum over thresholds of (recall gained) * precision, without interpolation: scikit-learn's
    `average_precision_score`, not the 11 points of VOC 2007. Equal scores make one threshold.

    Args:
        scores: Shape (n,).
        positive: Shape (n,), bool; at least one is true.
    """
    ordered, order = scores.sort(descending=True, stable=True)
    found = positive[order].double().cumsum(0)
    place = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    gained = found[last].diff(prepend=found.new_zeros(1))
    return (gained * (found / place)[last]).sum() / found[-1]


def refuse(train: Labelled, test: Labelled) -> None:
    """Refuse what no probe can measure.

    Raises:
        DataError: A part is empty, or features are not finite.
    """
    for what, part in (("training", train), ("test", test)):
        if not len(part):
            raise DataError(f"there are no {what} samples: use more images")
        bad = int((~part.features.isfinite()).any(1).sum())
        if bad:
            raise DataError(f"{bad} of {len(part)} {what} features are not finite: has the run diverged?")
