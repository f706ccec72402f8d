"""The probe `linear`: linear classification of frozen features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sslkit.api import Labelled, Probe
from sslkit.errors import DataError
from sslkit_probes.classifiers import (
    Candidate,
    Classifiers,
    FeatureStatistics,
    Targets,
    TrainingData,
    fit_lbfgs,
    fit_sgd,
)
from sslkit_probes.metrics import check_parts, label_metrics, score_metrics

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
ENOUGH = 500
"""With fewer held-out samples the choice among candidates is noise; other images are then held out, too."""
MOST_SPLITS = 5
_L2 = {"sgd": (0.0,), "lbfgs": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)}


class Linear(Probe):
    """A linear classifier on frozen features, with hyperparameters chosen on held-out training images.

    The loss is softmax cross-entropy, or with sets of labels one sigmoid per category. Weights and biases start at
    zero. All candidates are trained together, in one pass over the features. The best candidate by `top1` or `map` on
    the held-out images (on a tie, the one with the lower loss) is trained again on the whole training part. Where
    fewer than 500 samples would be held out, the same is done with other images held out, up to five times, and the
    best candidate on all of them is taken: with few held-out samples the choice is noise, and so is then the score.
    Test features are used once, at the end. Random numbers depend on `seed` alone.

    There is no augmentation: each feature comes from one crop. The procedure follows BYOL's sweep (arXiv 2006.07733,
    appendix C.1) and DINOv2's many classifiers at once (arXiv 2304.07193). Batch norm without affine parameters follows
    MAE (arXiv 2111.06377, appendix A.1), here with the statistics of the whole training part.

    Args:
        solver: "sgd", or "lbfgs" for full batches in float64 to the minimum, as in logistic regression.
        batch_norm: Subtract each feature's mean and divide by its standard deviation. Without it, features as small as
            a ResNet's need learning rates up to 30.
        lrs: Learning rates to choose from (sgd), not scaled by the batch size; each decays to 0 along a cosine.
        l2: Weights of |W|^2 / 2 to choose from, added to the mean loss; biases are not regularised. By default 0 (sgd),
            or 1e-5 to 1 (lbfgs). scikit-learn's C is 1 / (l2 * training samples).
        epochs: Number of passes over the training features (sgd).
        steps: Number of batches (sgd), instead of `epochs`.
        batch_size: Samples per step (sgd).
        momentum: Momentum (sgd).
        iterations: Maximum number of steps (lbfgs).
        tolerance: Largest absolute derivative at which the minimum counts as reached (lbfgs).
        validation_share: Share of the training images that is held out to compare candidates, each time.
        seed: Seed of the held-out images and of the order of samples.
    """

    name = "linear"
    takes = ("single-label", "multi-label")

    def __init__(
        self, *, solver: Literal["sgd", "lbfgs"] = "sgd", batch_norm: bool = True,
        lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
        l2: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] | None = None,
        epochs: Count = 100, steps: Count | None = None,
        batch_size: Count = 256, momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        iterations: Count = 1000, tolerance: Positive = 1e-5,
        validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1, seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    ) -> None:  # fmt: skip
        if solver == "lbfgs" and l2 and min(l2) == 0:
            raise ValueError(
                f"l2 = {list(l2)}: lbfgs needs a minimum, which lies at infinity without l2: write values above 0"
            )
        self.solver = solver
        self.batch_norm = batch_norm
        self.lrs = tuple(lrs)
        self.l2 = tuple(l2) if l2 else _L2[solver]
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.momentum = momentum
        self.iterations = iterations
        self.tolerance = tolerance
        self.validation_share = validation_share
        self.seed = seed

    @property
    def candidates(self) -> list[Candidate]:
        """The hyperparameters to choose from."""
        return [Candidate(lr, l2) for l2 in self.l2 for lr in (self.lrs if self.solver == "sgd" else (0.0,))]

    def evaluate(self, train: Labelled, test: Labelled) -> Mapping[str, float]:
        """Measure test features.

        Returns:
            `top1`, `balanced` and `chance`, or with sets of labels `map`, `chance` and `count_left_out`; also
            `chosen_lr` (sgd) and `chosen_l2`.

        Raises:
            DataError: There are fewer than two categories, too few images to hold some out, or no test samples;
                features are not finite; every candidate diverged.
        """
        check_parts(train, test)
        _require_two_categories(train)
        best = self.choose(train)
        classifier = self.fit(train, torch.arange(len(train)), [best])
        logits = classifier(test.features)[0]
        if not logits.isfinite().all():
            rates = ", ".join(f"{candidate.lr:g}" for candidate in self.candidates)
            raise DataError(f"the classifier diverged at every learning rate ({rates}): write smaller lrs")
        metrics = score_metrics(logits, test) if train.multi_label else label_metrics(logits.argmax(1), train, test)
        return metrics | ({"chosen_lr": best.lr} if self.solver == "sgd" else {}) | {"chosen_l2": best.l2}

    def choose(self, train: Labelled) -> Candidate:
        """Return the best candidate on held-out training images.

        Raises:
            DataError: There are too few images to hold some out.
        """
        candidates = self.candidates
        if len(candidates) == 1:
            return candidates[0]
        splits = self.splits(train)
        logits = torch.cat([self.fit(train, fit, candidates)(train.features[rows]) for fit, rows in splits], dim=1)
        held_out, targets = torch.cat([rows for _, rows in splits]), Targets.of(train)
        subset = _select(train, held_out)
        qualities = [_quality(scores, subset, targets.loss(scores, held_out)) for scores in logits]
        return candidates[max(range(len(candidates)), key=qualities.__getitem__)]

    def splits(self, train: Labelled) -> list[tuple[Tensor, Tensor]]:
        """Split the training samples into those to fit (n) and held-out ones (m); samples of one image stay together.

        There are several splits, with other images held out, where one would hold out fewer than `ENOUGH` samples.

        Raises:
            DataError: There is only one image.
        """
        images = torch.arange(len(train)) if train.images is None else train.images
        image = torch.unique(images, return_inverse=True)[1]
        count = int(image.max()) + 1
        if count < 2:
            raise DataError(
                f"linear chooses among {len(self.candidates)} candidates on held-out training images, but there is "
                f"only {count}: use more images, or write one value for "
                f"{'lrs' if self.solver == 'sgd' else 'l2'}, such as [{self.lrs[0] if self.solver == 'sgd' else 1e-3}]"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        size = min(count - 1, max(1, round(count * self.validation_share)))
        wanted = math.ceil(ENOUGH * count / (size * len(train)))
        parts = torch.split(order, size)[: min(wanted, MOST_SPLITS, count // size)]
        held_out = [torch.isin(image, part) for part in parts]
        return [(torch.nonzero(~rows)[:, 0], torch.nonzero(rows)[:, 0]) for rows in held_out]

    def fit(self, train: Labelled, rows: Tensor, candidates: list[Candidate]) -> Classifiers:
        """Train one classifier per candidate on these rows of the training part."""
        statistics = FeatureStatistics.of(train.features, rows) if self.batch_norm else None
        data = TrainingData(train.features, Targets.of(train), rows, statistics, train.device)
        if self.solver == "lbfgs":
            return fit_lbfgs(data, candidates, self.iterations, self.tolerance)
        steps = self.steps or self.epochs * math.ceil(len(rows) / self.batch_size)
        return fit_sgd(data, candidates, steps, self.batch_size, self.momentum, self.seed)


def _select(train: Labelled, rows: Tensor) -> Labelled:
    ignored = None if train.ignored is None else train.ignored[rows]
    return Labelled(train.features[rows], train.labels[rows], train.categories, ignored=ignored)


def _quality(scores: Tensor, held_out: Labelled, loss: float) -> tuple[float, float]:
    """Return the sort key of a candidate, higher is better; a diverged candidate comes last."""
    if not scores.isfinite().all():
        return (-1.0, 0.0)
    if held_out.multi_label:
        best = score_metrics(scores, held_out)["map"] if held_out.labels.any() else 0.0
    else:
        best = (scores.argmax(1) == held_out.labels).double().mean().item()
    return (best, -loss)


def _require_two_categories(train: Labelled) -> None:
    if train.multi_label:
        learnable = int((train.labels.any(0) & ~train.labels.all(0)).sum())
        if not learnable:
            raise DataError(
                f"no category is present in some of the {len(train)} training images and absent from others, so "
                "there is nothing to learn: use more images"
            )
    elif len(train.labels.unique()) < 2:  # type: ignore[no-untyped-call]
        raise DataError(
            f"linear needs at least two categories, but all {len(train)} training samples have the same one: "
            "use more images, or another test_share"
        )
