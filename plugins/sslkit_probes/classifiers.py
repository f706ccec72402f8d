"""Many linear classifiers trained at once on the same features, with gradients in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.api import Labelled

_CHUNK = 8192
"""Samples of a chunk, where all are gone through."""
_HELD = 2**30
"""Bytes of standardised features that are held; more are made anew for each batch."""


class Candidate(NamedTuple):
    """Settings of one classifier."""

    lr: float
    l2: float


@dataclass(frozen=True)
class Standard:
    """Batch norm without affine, with the statistics of all training samples.

    Attributes:
        mean: Shape (f,), float64.
        scale: Shape (f,), float64: 1 / sqrt(variance + 1e-6).
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor, rows: Tensor) -> Standard:
        """Measure rows (n) of features (N f)."""
        mean = _mean(features, rows, lambda part: part)
        return cls(mean, (_mean(features, rows, lambda part: (part - mean).square()) + 1e-6).rsqrt())


def _mean(features: Tensor, rows: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    parts = [of(features[part].double()).sum(0) for part in torch.split(rows, _CHUNK)]
    return torch.stack(parts).sum(0) / len(rows)


@dataclass(frozen=True)
class Targets:
    """What logits are compared with.

    Attributes:
        labels: int64 (n), or bool (n c).
        ignored: bool (n c) beside sets of labels.
        width: c.
    """

    labels: Tensor
    ignored: Tensor | None
    width: int

    @classmethod
    def of(cls, train: Labelled) -> Targets:
        """Take the labels of a training part."""
        width = train.labels.shape[1] if train.multi_label else int(train.labels.max()) + 1
        return cls(train.labels, train.ignored, width)

    def gradient(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the derivative (r n c) of the summed loss by the logits (r n c) of rows (n)."""
        labels = self.labels[rows].to(logits.device)
        if labels.ndim == 1:
            return logits.softmax(-1) - F.one_hot(labels, self.width).to(logits.dtype)
        return self._known(logits.sigmoid() - labels.to(logits.dtype), rows)

    def sums(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the summed loss (r) of logits (r n c): cross-entropy, or binary ones summed over categories."""
        labels = self.labels[rows].to(logits.device)
        if labels.ndim == 1:
            picked = labels.view(1, -1, 1).expand(len(logits), -1, 1)
            return -logits.log_softmax(-1).gather(2, picked).sum((1, 2))
        wanted = labels.to(logits.dtype).expand_as(logits)
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return self._known(each, rows).sum((1, 2))

    def loss(self, logits: Tensor, rows: Tensor) -> float:
        """Return the mean loss of one classifier's logits (n c)."""
        return self.sums(logits[None], rows).item() / len(rows)

    def _known(self, values: Tensor, rows: Tensor) -> Tensor:
        return values if self.ignored is None else values * ~self.ignored[rows].to(values.device)


@dataclass(frozen=True)
class Classifiers:
    """Several linear classifiers.

    Attributes:
        weight: Shape (r, c, f).
        bias: Shape (r, c).
    """

    weight: Tensor
    bias: Tensor
    standard: Standard | None

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits (r n c) of features (n f), on the CPU."""
        parts = [self.logits(self.read(part)) for part in torch.split(features, _CHUNK)]
        return torch.cat([part.cpu() for part in parts], dim=1)

    def read(self, features: Tensor) -> Tensor:
        """Bring features (n f) to the classifiers' device and precision, standardised."""
        x = features.to(self.weight)
        if self.standard is None:
            return x
        return (x - self.standard.mean.to(x)) * self.standard.scale.to(x)

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (r n c) of what `read` gave (n f), by one matrix product."""
        r, c, f = self.weight.shape
        return (x @ self.weight.view(r * c, f).T).view(-1, r, c).transpose(0, 1) + self.bias[:, None]

    def gradients(self, x: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives by weight and bias, from those by the logits, `outer` (r n c)."""
        r, _, c = outer.shape
        flat = outer.transpose(0, 1).reshape(-1, r * c)
        return (flat.T @ x).view_as(self.weight), outer.sum(1)


@dataclass(frozen=True)
class Data:
    """What classifiers are trained on.

    Attributes:
        features: Shape (N, f).
        targets: Of all N.
        rows: Shape (n,): which of them are trained on.
        standard: Applied to the features, where there is one.
        device: Where the classifiers are.
    """

    features: Tensor
    targets: Targets
    rows: Tensor
    standard: Standard | None
    device: torch.device

    def reader(self, of: Classifiers) -> Callable[[Tensor], Tensor]:
        """Return a function from places in `rows` (n) to what the classifiers read (n f), held where there is room."""
        size = len(self.rows) * self.features.shape[1] * of.weight.element_size()
        if size > _HELD:
            return lambda places: of.read(self.features[self.rows[places]])
        held = of.read(self.features[self.rows])
        return lambda places: held[places.to(held.device)]

    def zeros(self, count: int, dtype: torch.dtype) -> Classifiers:
        """Return so many classifiers that know nothing yet."""
        shape = (count, self.targets.width)
        weight = torch.zeros(*shape, self.features.shape[1], dtype=dtype, device=self.device)
        return Classifiers(weight, torch.zeros(shape, dtype=dtype, device=self.device), self.standard)


def fit_sgd(
    data: Data, candidates: list[Candidate], epochs: int, batch_size: int, momentum: float, seed: int
) -> Classifiers:
    """Train a classifier for each candidate by SGD with momentum, all on the same batches.

    The mean loss of a batch, plus l2 / 2 |W|^2; the learning rate falls to 0 along a cosine, step by step.

    Args:
        data: Features and labels.
        candidates: r of them.
        epochs: Passes over the rows, each in a new order.
        batch_size: Rows per step; the last batch of a pass may be smaller.
        momentum: As torch.optim.SGD's.
        seed: Of the orders.
    """
    made = data.zeros(len(candidates), torch.float32)
    lrs, l2 = torch.tensor(candidates, device=data.device).view(-1, 2, 1, 1).unbind(1)
    speeds = torch.zeros_like(made.weight), torch.zeros_like(made.bias)
    read = data.reader(made)
    rng = torch.Generator().manual_seed(seed)
    steps, step = epochs * math.ceil(len(data.rows) / batch_size), 0
    for _ in range(epochs):
        for places in torch.split(torch.randperm(len(data.rows), generator=rng), batch_size):
            lr = lrs * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            x = read(places)
            outer = data.targets.gradient(made.logits(x), data.rows[places]) / len(places)
            weight, bias = made.gradients(x, outer)
            speeds[0].mul_(momentum).add_(weight.addcmul_(l2, made.weight))
            speeds[1].mul_(momentum).add_(bias)
            made.weight.addcmul_(lr, speeds[0], value=-1)
            made.bias.addcmul_(lr[..., 0], speeds[1], value=-1)
            step += 1
    return made


def fit_lbfgs(data: Data, candidates: list[Candidate], iterations: int, tolerance: float) -> Classifiers:
    """Minimise the mean loss plus l2 / 2 |W|^2 for each candidate, in float64, beginning with the strongest l2.

    Each starts where the one before it has ended.

    Args:
        data: Features and labels.
        candidates: r of them; their learning rates are not used.
        iterations: At most so many for each.
        tolerance: The largest derivative at which the minimum is taken for reached.
    """
    if data.device.type == "mps":  # which has no float64
        data = replace(data, device=torch.device("cpu"))
    made, one = data.zeros(len(candidates), torch.float64), data.zeros(1, torch.float64)
    read = data.reader(one)
    for place in sorted(range(len(candidates)), key=lambda index: -candidates[index].l2):
        _minimise(one, data, read, candidates[place].l2, iterations, tolerance)
        made.weight[place], made.bias[place] = one.weight[0], one.bias[0]
    return made


def _minimise(
    one: Classifiers, data: Data, read: Callable[[Tensor], Tensor], l2: float, iterations: int, tolerance: float
) -> None:
    """Move one classifier to its minimum, with all rows in every step."""
    optimizer = torch.optim.LBFGS(
        [one.weight, one.bias], max_iter=iterations, max_eval=2 * iterations, history_size=20,
        tolerance_grad=tolerance, tolerance_change=0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    count = len(data.rows)
    chunks = torch.split(torch.arange(count), _CHUNK)

    def closure() -> Tensor:
        loss = l2 / 2 * one.weight.square().sum()
        one.weight.grad, one.bias.grad = l2 * one.weight, torch.zeros_like(one.bias)
        for places in chunks:
            x, rows = read(places), data.rows[places]
            logits = one.logits(x)
            weight, bias = one.gradients(x, data.targets.gradient(logits, rows) / count)
            one.weight.grad += weight
            one.bias.grad += bias
            loss += data.targets.sums(logits, rows).sum() / count
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
