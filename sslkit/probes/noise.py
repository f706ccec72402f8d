"""The noise of probe scores: standard errors from the number of test samples."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sslkit.api import Labelled


def sample_counts(test: Labelled) -> dict[str, float]:
    """Return the numbers of test samples that errors are computed from, as scores.

    Returns:
        `count_test`, the number of test samples; with sets of labels also `count_effective`, the number of samples that
        the error of `map` is computed from: c^2 / sum(1 / n_i) for c categories with n_i positives each, and at most
        `count_test`. It is that of an average over independent categories, where average precision has the error of a
        share of the positives (the binomial interval of Boyd, Eng and Page, ECML PKDD 2013). Deviation: the
        average precision of each category is not known here, so all have the variance that `map` would have.
    """
    counts = {"count_test": float(len(test))}
    if test.multi_label:
        positives = test.labels.sum(0).double()
        positives = positives[positives > 0]
        effective = len(positives) ** 2 / positives.reciprocal().sum().item() if len(positives) else 0.0
        counts["count_effective"] = min(effective, counts["count_test"])
    return counts


def sample_count(metric: str, scores: Mapping[str, float]) -> float | None:
    """Return the number of samples behind `top1` or `map`; None for scores from before it was recorded."""
    return scores.get("count_effective" if metric == "map" else "count_test")


def difference_error(a: float, b: float, count_a: float, count_b: float) -> float:
    """Return the standard error of the difference of two shares, of independent samples.

    Both are binomial, with one success and one failure added to each, so that shares near 0 and 1 keep an error
    (Agresti and Caffo, The American Statistician 2000, 54(4), section 2). Two networks that are measured on the same
    samples agree on many of them, so the error of their difference is usually smaller than this.
    """
    return math.sqrt(_variance(a, count_a) + _variance(b, count_b))


def _variance(share: float, count: float) -> float:
    adjusted = (share * count + 1) / (count + 2)
    return adjusted * (1 - adjusted) / (count + 2)
