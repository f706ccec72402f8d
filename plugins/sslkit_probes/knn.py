"""k nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslkit.api import Labelled, Probe
from sslkit.errors import DataError

_PAIRS = 2**25
"""Similarities that are held at once: 128 MiB in float32."""


class KNN(Probe):
    """k nearest neighbours by cosine similarity, exact, in chunks of test samples.

    With `weights = "temperature"` a neighbour votes with exp(similarity / temperature) (Wu et al., arXiv 1805.01978,
    section 3.4). Labels with equally many votes: the smaller one is taken. Training samples that are equally similar at
    the k-th place: torch.topk chooses, the same ones every time. A feature of length 0 is similar to nothing (0).

    Args:
        k: Neighbours that vote.
        weights: "temperature", or "uniform": one vote each.
        temperature: Of the weights.
    """

    name = "knn"

    def __init__(
        self, *, k: Annotated[int, Field(ge=1)] = 20, weights: Literal["temperature", "uniform"] = "temperature",
        temperature: Annotated[float, Field(gt=0)] = 0.07,
    ) -> None:  # fmt: skip
        self.k = k
        self.weights = weights
        self.temperature = temperature

    def evaluate(self, train: Labelled, test: Labelled) -> Mapping[str, float]:
        """Measure test features.

        Returns:
            `top1`; `balanced`, the mean of the test classes' accuracies; `chance`, what always guessing the commonest
            training label gives.

        Raises:
            DataError: There are fewer training samples than neighbours, nothing to test, or features are not finite.
        """
        self._check(train, test)
        right = (self.predict(train, test.features) == test.labels).double()
        balanced = torch.stack([right[test.labels == label].mean() for label in torch.unique(test.labels)]).mean()
        chance = (test.labels == train.labels.bincount().argmax()).double().mean()
        return {"top1": right.mean().item(), "balanced": balanced.item(), "chance": chance.item()}

    def _check(self, train: Labelled, test: Labelled) -> None:
        if len(train.labels) < self.k or not len(test.labels):
            raise DataError(
                f"kNN with k = {self.k} needs {self.k} training samples and one to test; "
                f"there are {len(train.labels)} and {len(test.labels)}: use more images, or a smaller k"
            )
        for what, part in (("training", train), ("test", test)):
            bad = int((~part.features.isfinite()).any(1).sum())
            if bad:
                raise DataError(f"{bad} of {len(part.labels)} {what} features are not finite: has the run diverged?")

    def predict(self, train: Labelled, features: Tensor) -> Tensor:
        """Return the label (n) of each feature (n f)."""
        bank = F.normalize(train.features, dim=1)
        chunks = torch.split(F.normalize(features, dim=1), max(1, _PAIRS // len(bank)))
        return torch.cat([self._vote(chunk @ bank.T, train.labels) for chunk in chunks])

    def _vote(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """Return labels (n) from similarities (n train) and the training labels (train)."""
        near, which = similarity.topk(self.k, dim=1)
        if self.weights == "uniform":
            weight = torch.ones_like(near, dtype=torch.float64)
        else:  # relative to the nearest: the same order of labels, and no overflow
            weight = torch.exp((near - near[:, :1]).double() / self.temperature)
        votes = weight.new_zeros(len(near), int(labels.max()) + 1)
        return votes.scatter_add_(1, labels[which], weight).argmax(1)
