"""Train many linear classifiers at once on the same features, with gradients in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.api import Labelled

_CHUNK = 8192
"""Samples per chunk in passes over all samples."""
_MAX_CACHED = 2**30
"""Maximum size of cached standardised features, bytes; larger ones are recomputed for each batch."""


class Candidate(NamedTuple):
    """The hyperparameters of one classifier."""

    lr: float
    l2: float


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and scale of each feature over all training samples, for batch norm without affine parameters.

    Attributes:
        mean: Shape (f,), float64.
        scale: Shape (f,), float64: 1 / sqrt(variance + 1e-6).
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor, rows: Tensor) -> FeatureStatistics:
        """Compute the statistics of rows (n) of features (N f)."""
        mean = _mean(features, rows, lambda part: part)
        return cls(mean, (_mean(features, rows, lambda part: (part - mean).square()) + 1e-6).rsqrt())


def _mean(features: Tensor, rows: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    parts = [of(features[part].double()).sum(0) for part in torch.split(rows, _CHUNK)]
    return torch.stack(parts).sum(0) / len(rows)


@dataclass(frozen=True)
class Targets:
    """The labels that logits are compared with.

    Attributes:
        labels: int64 (n), or bool (n c) for sets of labels.
        ignored: bool (n c), only with sets of labels.
        width: Number of categories, c.
    """

    labels: Tensor
    ignored: Tensor | None
    width: int

    @classmethod
    def of(cls, train: Labelled) -> Targets:
        """Build the targets from the labels of a training part."""
        width = train.labels.shape[1] if train.multi_label else int(train.labels.max()) + 1
        return cls(train.labels, train.ignored, width)

    def gradient(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the derivative (r n c) of the summed loss with respect to the logits (r n c) of rows (n)."""
        labels = self.labels[rows].to(logits.device)
        if labels.ndim == 1:
            return logits.softmax(-1) - F.one_hot(labels, self.width).to(logits.dtype)
        return self._mask_ignored(logits.sigmoid() - labels.to(logits.dtype), rows)

    def sums(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the summed loss (r) of logits (r n c): cross-entropy, or binary, summed over categories."""
        labels = self.labels[rows].to(logits.device)
        if labels.ndim == 1:
            index = labels.view(1, -1, 1).expand(len(logits), -1, 1)
            return -logits.log_softmax(-1).gather(2, index).sum((1, 2))
        positive = labels.to(logits.dtype).expand_as(logits)
        losses = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
        return self._mask_ignored(losses, rows).sum((1, 2))

    def loss(self, logits: Tensor, rows: Tensor) -> float:
        """Return the mean loss of one classifier's logits (n c)."""
        return self.sums(logits[None], rows).item() / len(rows)

    def _mask_ignored(self, values: Tensor, rows: Tensor) -> Tensor:
        return values if self.ignored is None else values * ~self.ignored[rows].to(values.device)


@dataclass(frozen=True)
class Classifiers:
    """Several linear classifiers with shared input statistics.

    Attributes:
        weight: Shape (r, c, f).
        bias: Shape (r, c).
        statistics: Statistics that standardise the features; None leaves features unchanged.
    """

    weight: Tensor
    bias: Tensor
    statistics: FeatureStatistics | None

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits (r n c) of features (n f), on the CPU."""
        parts = [self.logits(self.standardise(part)) for part in torch.split(features, _CHUNK)]
        return torch.cat([part.cpu() for part in parts], dim=1)

    def standardise(self, features: Tensor) -> Tensor:
        """Move features (n f) to the classifiers' device and precision, and standardise them."""
        x = features.to(self.weight)
        if self.statistics is None:
            return x
        return (x - self.statistics.mean.to(x)) * self.statistics.scale.to(x)

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (r n c) of standardised features (n f), by one matrix product."""
        r, c, f = self.weight.shape
        return (x @ self.weight.view(r * c, f).T).view(-1, r, c).transpose(0, 1) + self.bias[:, None]

    def gradients(self, x: Tensor, logit_gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives with respect to weight and bias, given those with respect to the logits (r n c)."""
        r, _, c = logit_gradients.shape
        flat = logit_gradients.transpose(0, 1).reshape(-1, r * c)
        return (flat.T @ x).view_as(self.weight), logit_gradients.sum(1)


@dataclass(frozen=True)
class TrainingData:
    """The data and device that classifiers are trained on.

    Attributes:
        features: Shape (N, f).
        targets: Labels of all N samples.
        rows: Shape (n,): indices of the training samples.
        statistics: Statistics that standardise the features, or None.
        device: Device of the classifiers.
    """

    features: Tensor
    targets: Targets
    rows: Tensor
    statistics: FeatureStatistics | None
    device: torch.device

    def reader(self, classifiers: Classifiers) -> Callable[[Tensor], Tensor]:
        """Return a function from positions in `rows` (n) to standardised features (n f), cached if they fit."""
        size = len(self.rows) * self.features.shape[1] * classifiers.weight.element_size()
        if size > _MAX_CACHED:
            return lambda positions: classifiers.standardise(self.features[self.rows[positions]])
        cached = classifiers.standardise(self.features[self.rows])
        return lambda positions: cached[positions.to(cached.device)]

    def zeros(self, count: int, dtype: torch.dtype) -> Classifiers:
        """Return `count` classifiers whose weights and biases are zero."""
        shape = (count, self.targets.width)
        weight = torch.zeros(*shape, self.features.shape[1], dtype=dtype, device=self.device)
        return Classifiers(weight, torch.zeros(shape, dtype=dtype, device=self.device), self.statistics)


def fit_sgd(
    data: TrainingData, candidates: list[Candidate], steps: int, batch_size: int, momentum: float, seed: int
) -> Classifiers:
    """Train a classifier for each candidate by SGD with momentum, all on the same batches.

    The loss is the mean over the batch plus l2 / 2 |W|^2. The learning rate decays to 0 along a cosine, step by step.

    Args:
        data: Features and labels.
        candidates: The hyperparameters of r classifiers.
        steps: Number of batches, taken from passes over the rows, each in a new order.
        batch_size: Rows per step; the last batch of a pass may be smaller.
        momentum: Momentum, as in torch.optim.SGD.
        seed: Seed of the orders.
    """
    classifiers = data.zeros(len(candidates), torch.float32)
    lrs, l2 = torch.tensor(candidates, device=data.device).view(-1, 2, 1, 1).unbind(1)
    velocity = torch.zeros_like(classifiers.weight), torch.zeros_like(classifiers.bias)
    read = data.reader(classifiers)
    rng = torch.Generator().manual_seed(seed)
    for step, positions in zip(range(steps), _batches(len(data.rows), batch_size, rng), strict=False):
        lr = lrs * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        x = read(positions)
        logit_gradients = data.targets.gradient(classifiers.logits(x), data.rows[positions]) / len(positions)
        weight, bias = classifiers.gradients(x, logit_gradients)
        velocity[0].mul_(momentum).add_(weight.addcmul_(l2, classifiers.weight))
        velocity[1].mul_(momentum).add_(bias)
        classifiers.weight.addcmul_(lr, velocity[0], value=-1)
        classifiers.bias.addcmul_(lr[..., 0], velocity[1], value=-1)
    return classifiers


def _batches(count: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield positions, one pass in a new order after another, without end."""
    while True:
        yield from torch.split(torch.randperm(count, generator=rng), batch_size)


def fit_lbfgs(data: TrainingData, candidates: list[Candidate], iterations: int, tolerance: float) -> Classifiers:
    """Minimise the mean loss plus l2 / 2 |W|^2 for each candidate, in float64, from the largest l2 to the smallest.

    Each candidate starts at the minimum of the one before it.

    Args:
        data: Features and labels.
        candidates: The hyperparameters of r classifiers; learning rates are not used.
        iterations: Maximum number of iterations per candidate.
        tolerance: Largest absolute derivative at which the minimum counts as reached.
    """
    if data.device.type == "mps":  # MPS has no float64
        data = replace(data, device=torch.device("cpu"))
    classifiers, one = data.zeros(len(candidates), torch.float64), data.zeros(1, torch.float64)
    read = data.reader(one)
    for number in sorted(range(len(candidates)), key=lambda index: -candidates[index].l2):
        _minimise(one, data, read, candidates[number].l2, iterations, tolerance)
        classifiers.weight[number], classifiers.bias[number] = one.weight[0], one.bias[0]
    return classifiers


def _minimise(
    one: Classifiers, data: TrainingData, read: Callable[[Tensor], Tensor], l2: float, iterations: int, tolerance: float
) -> None:
    """Minimise the loss of one classifier, using all rows in every step."""
    optimizer = torch.optim.LBFGS(
        [one.weight, one.bias], max_iter=iterations, max_eval=2 * iterations, history_size=20,
        tolerance_grad=tolerance, tolerance_change=0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    count = len(data.rows)
    chunks = torch.split(torch.arange(count), _CHUNK)

    def closure() -> Tensor:
        loss = l2 / 2 * one.weight.square().sum()
        one.weight.grad, one.bias.grad = l2 * one.weight, torch.zeros_like(one.bias)
        for positions in chunks:
            x, rows = read(positions), data.rows[positions]
            logits = one.logits(x)
            weight, bias = one.gradients(x, data.targets.gradient(logits, rows) / count)
            one.weight.grad += weight
            one.bias.grad += bias
            loss += data.targets.sums(logits, rows).sum() / count
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
