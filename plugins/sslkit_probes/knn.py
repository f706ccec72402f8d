"""k nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslkit.api import Labelled, Probe
from sslkit.errors import DataError
from sslkit_probes.metrics import of_labels, of_scores, refuse

_PAIRS = 2**25
"""Similarities that are held at once: 128 MiB in float32."""


class KNN(Probe):
    """k nearest neighbours by cosine similarity, exact, in chunks of test samples.

    With `weights = "temperature"` a neighbour votes with exp(similarity / temperature) (Wu et al., arXiv 1805.01978,
    section 3.4, with k = 200; DINO, arXiv 2104.14294, found k = 20 best at the same temperature). Labels with equally
    many votes: the smaller one is taken. Training samples that are equally similar at the k-th place: torch.topk
    chooses, the same ones every time. A feature of length 0 is similar to nothing (0).

    With sets of labels a category's score is its share of the votes, of neighbours for which it is known; `map` is
    taken over these scores.

    Args:
        k: Neighbours that vote.
        weights: "temperature", or "uniform": one vote each.
        temperature: Of the weights.
    """

    name = "knn"
    takes = ("single-label", "multi-label")

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
            `top1`, `balanced` and `chance`; with sets of labels `map`, `chance` and `count_left_out`.

        Raises:
            DataError: There are fewer training samples than neighbours, nothing to test, or features are not finite.
        """
        if len(train) < self.k or not len(test):
            raise DataError(
                f"kNN with k = {self.k} needs {self.k} training samples and one to test; "
                f"there are {len(train)} and {len(test)}: use more images, or a smaller k"
            )
        refuse(train, test)
        if train.multi_label:
            return of_scores(self.scores(train, test.features), test)
        return of_labels(self.predict(train, test.features), train, test)

    def predict(self, train: Labelled, features: Tensor) -> Tensor:
        """Return the label (n) of each feature (n f)."""
        count = int(train.labels.max()) + 1
        labels = train.labels.to(train.device)

        def vote(near: Tensor, weight: Tensor) -> Tensor:
            votes = weight.new_zeros(len(near), count)
            return votes.scatter_add_(1, labels[near], weight).argmax(1)

        return self._chunked(train, features, vote)

    def scores(self, train: Labelled, features: Tensor) -> Tensor:
        """Return each category's share of the votes (n c) for features (n f), where training labels are sets."""
        wanted = train.labels.to(train.device, torch.float64)
        known = None if train.ignored is None else (~train.ignored).to(train.device, torch.float64)

        def vote(near: Tensor, weight: Tensor) -> Tensor:
            votes = torch.einsum("nk,nkc->nc", weight, wanted[near])
            cast = weight.sum(1, keepdim=True) if known is None else torch.einsum("nk,nkc->nc", weight, known[near])
            return votes / cast.clamp_min(torch.finfo(votes.dtype).tiny)

        return self._chunked(train, features, vote, held=wanted.shape[1] * self.k)

    def _chunked(
        self, train: Labelled, features: Tensor, vote: Callable[[Tensor, Tensor], Tensor], held: int = 0
    ) -> Tensor:
        """Return votes for all features; `vote` gets the neighbours' places and weights, both (n k)."""
        bank = F.normalize(train.features.to(train.device), dim=1)
        size = max(1, _PAIRS // max(len(bank), 2 * held))
        return torch.cat(
            [
                vote(*self._near(F.normalize(part.to(train.device), dim=1) @ bank.T)).cpu()
                for part in torch.split(features, size)
            ]
        )

    def _near(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Return the neighbours' places and weights, both (n k), from similarities (n train)."""
        near, places = similarity.topk(self.k, dim=1)
        if self.weights == "uniform":
            return places, torch.ones_like(near, dtype=torch.float64)
        # Relative to the nearest: the same order of labels, and no overflow.
        return places, torch.exp((near - near[:, :1]).double() / self.temperature)
