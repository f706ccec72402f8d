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

_CHUNK = 1024


class KNN(Probe):
    """k nearest neighbours by cosine similarity, exact, in chunks of test samples.

    With `weights = "temperature"` a neighbour votes with exp(similarity / temperature) (Wu et al., arXiv 1805.01978,
    section 3.4). A tie goes to the label that comes first.

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
        """Return `top1`, `balanced` (mean over the test classes) and `chance` (share of the commonest training class).

        Raises:
            DataError: There are fewer training samples than neighbours, or nothing to test.
        """
        if len(train.labels) < self.k or not len(test.labels):
            raise DataError(
                f"kNN with k = {self.k} needs as many training samples and a test sample; "
                f"there are {len(train.labels)} and {len(test.labels)}"
            )
        right = (self.predict(train, test.features) == test.labels).double()
        classes = test.labels.unique()
        balanced = torch.stack([right[test.labels == label].mean() for label in classes]).mean()
        commonest = train.labels.bincount().argmax()
        chance = (test.labels == commonest).double().mean()
        return {"top1": right.mean().item(), "balanced": balanced.item(), "chance": chance.item()}

    def predict(self, train: Labelled, features: Tensor) -> Tensor:
        """Return the label (n) of each feature (n f)."""
        bank = F.normalize(train.features, dim=1)
        votes = F.one_hot(train.labels).to(bank.dtype)
        return torch.cat(
            [self._vote(F.normalize(part, dim=1) @ bank.T, votes) for part in torch.split(features, _CHUNK)]
        )

    def _vote(self, similarity: Tensor, votes: Tensor) -> Tensor:
        """Return labels (n) from similarities (n train) and one-hot labels (train c)."""
        near, which = similarity.topk(self.k, dim=1)
        if self.weights == "uniform":
            weight = torch.ones_like(near)
        else:
            weight = torch.exp((near - near[:, :1]) / self.temperature)  # the same votes, and no overflow
        return (weight.unsqueeze(2) * votes[which]).sum(1).argmax(1)
