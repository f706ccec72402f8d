"""The probe `knn`: k nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslkit.api import Labelled, Probe
from sslkit.errors import DataError
from sslkit_probes.metrics import check_parts, label_metrics, score_metrics

_PAIRS = 2**25
"""Maximum number of similarities in memory at once: 128 MiB in float32."""


class KNN(Probe):
    """Exact k nearest neighbours by cosine similarity, computed in chunks of test samples.

    With `weights = "temperature"` a neighbour votes with exp(similarity / temperature) (Wu et al., arXiv 1805.01978,
    section 3.4, with k = 200; DINO, arXiv 2104.14294, found k = 20 best at the same temperature). If labels tie, the
    smaller one wins. If training samples tie for the k-th place, torch.topk chooses, the same ones every time. A
    feature of length 0 has similarity 0 to all others.

    With sets of labels, a category's score is its share of the votes of those neighbours for which it is known; `map`
    is computed from these scores.

    Args:
        k: Number of neighbours that vote.
        weights: "temperature", or "uniform" for one vote each.
        temperature: Temperature of the weights.
    """

    name = "knn"
    takes = ("single-label", "multi-label")

    def __init__(
        self, *, k: Annotated[int, Field(ge=1, le=1_000_000)] = 20,
        weights: Literal["temperature", "uniform"] = "temperature",
        temperature: Annotated[float, Field(gt=0)] = 0.07,
    ) -> None:  # fmt: skip
        self.k = k
        self.weights = weights
        self.temperature = temperature

    def evaluate(self, train: Labelled, test: Labelled) -> Mapping[str, float]:
        """Measure test features.

        Returns:
            `top1`, `balanced` and `chance`; with sets of labels `map`, `chance` and `count_left_out`.

        Raises:
            DataError: There are fewer training samples than `k`, no test samples, or features are not finite.
        """
        if len(train) < self.k or not len(test):
            raise DataError(
                f"kNN with k = {self.k} needs {self.k} training samples and one test sample, "
                f"but there are {len(train)} and {len(test)}: use more images, or a smaller k"
            )
        check_parts(train, test)
        if train.multi_label:
            return score_metrics(self.scores(train, test.features), test)
        return label_metrics(self.predict(train, test.features), train, test)

    def predict(self, train: Labelled, features: Tensor) -> Tensor:
        """Return the label (n) of each feature (n f)."""
        count = int(train.labels.max()) + 1
        labels = train.labels.to(train.device)

        def vote(near: Tensor, weight: Tensor) -> Tensor:
            votes = weight.new_zeros(len(near), count)
            return votes.scatter_add_(1, labels[near], weight).argmax(1)

        return self._vote_in_chunks(train, features, vote)

    def scores(self, train: Labelled, features: Tensor) -> Tensor:
        """Return each category's share of the votes (n c) for features (n f); training labels are sets."""
        positive = train.labels.to(train.device, torch.float64)
        known = None if train.ignored is None else (~train.ignored).to(train.device, torch.float64)

        def vote(near: Tensor, weight: Tensor) -> Tensor:
            votes = torch.einsum("nk,nkc->nc", weight, positive[near])
            total = weight.sum(1, keepdim=True) if known is None else torch.einsum("nk,nkc->nc", weight, known[near])
            return votes / total.clamp_min(torch.finfo(votes.dtype).tiny)

        return self._vote_in_chunks(train, features, vote, memory_per_row=positive.shape[1] * self.k)

    def _vote_in_chunks(
        self, train: Labelled, features: Tensor, vote: Callable[[Tensor, Tensor], Tensor], memory_per_row: int = 0
    ) -> Tensor:
        """Return votes for all features. `vote` gets the neighbours' indices and weights, both (n k)."""
        bank = F.normalize(train.features.to(train.device), dim=1)
        size = max(1, _PAIRS // max(len(bank), 2 * memory_per_row))
        return torch.cat(
            [
                vote(*self._neighbours(F.normalize(part.to(train.device), dim=1) @ bank.T)).cpu()
                for part in torch.split(features, size)
            ]
        )

    def _neighbours(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Return the neighbours' indices and weights, both (n k), from similarities (n train)."""
        near, indices = similarity.topk(self.k, dim=1)
        if self.weights == "uniform":
            return indices, torch.ones_like(near, dtype=torch.float64)
        # Relative to the nearest neighbour: the order of labels is the same, and nothing overflows.
        return indices, torch.exp((near - near[:, :1]).double() / self.temperature)
