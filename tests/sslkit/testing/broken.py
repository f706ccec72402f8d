"""Components that keep their contracts, and variants that break one check each.

`BROKEN` maps (kind, check) to a case that must fail, and to words that the message must contain.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from sslkit import nn as safe
from sslkit.api import Backbone, Head, Objective, Objects, Probe, Sample, Source, ViewSampler
from sslkit.boxes import empty
from sslkit.errors import DataError
from sslkit.testing import Case

BROKEN: dict[tuple[str, str], tuple[Case, str]] = {}
Decorator = Callable[[type[Any]], type[Any]]


def breaks(kind: str, check: str, words: str, **case: Any) -> Decorator:
    """Register a class for the check that it breaks."""

    def register(cls: type[Any]) -> type[Any]:
        BROKEN[kind, check] = (Case(cls, **case), words)
        return cls

    return register


# -------------------------------------------------------------------------------------------------- objectives


class Good(Objective):
    """Negative cosine of predictions and projections of the other views, scaled and by a learned factor.

    Args:
        scale: Of the loss.
    """

    name = "good"
    requires: ClassVar = {"p": "online.prediction.scene: b v d", "z": "target.projection.scene: b v d"}

    def __init__(self, dims: Any, *, scale: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        if dims["v"] < 2:
            raise ValueError(f"needs two views or more, got {dims['v']}")
        self.scale = scale
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, p: Tensor, z: Tensor) -> Any:
        return -self.scale * self.factor * safe.cosine_similarity(p, z.flip(1)).mean()


@breaks("objective", "name", "write a kebab-case name")
class Named(Good):
    __doc__ = Good.__doc__
    name = "NamedBadly"


@breaks("objective", "is_concrete", "does not define forward")
class Abstract(Objective):
    """No forward."""

    name = "abstract"
    requires: ClassVar = Good.requires


@breaks("objective", "documentation", "options scale")
class Undocumented(Good):
    """Does not mention its option."""


@breaks("objective", "signature", "would hide a misspelt option")
class Loose(Good):
    """Takes anything: scale."""

    def __init__(self, dims: Any, **options: Any) -> None:
        super().__init__(dims, **options)


@breaks("objective", "options", "its option 'mask' cannot be read")
class Unreadable(Good):
    """Takes a mask that no recipe can hold, and a scale."""

    def __init__(self, dims: Any, *, scale: float = 1.0, mask: np.ndarray[Any, Any] | None = None) -> None:
        super().__init__(dims, scale=scale)


@breaks("objective", "options", "its option 'weight' has the name of a key that sslkit itself reads")
class Weighty(Good):
    """Takes a weight and a scale, and the recipe's table has a weight of its own."""

    def __init__(self, dims: Any, *, scale: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(dims, scale=scale)


@breaks("objective", "options", "must be greater than 0")
class Ranged(Good):
    """Its default for scale is out of range."""

    def __init__(self, dims: Any, *, scale: Annotated[float, Field(gt=0)] = 0.0) -> None:
        super().__init__(dims, scale=scale)


@breaks("objective", "made_on_meta", "table are not on the meta device")
class Elsewhere(Good):
    """Makes a table in its constructor, on the CPU, whatever the scale."""

    def __init__(self, dims: Any, *, scale: float = 1.0) -> None:
        super().__init__(dims, scale=scale)
        self.register_buffer("table", torch.zeros(3, device="cpu"))


@breaks("objective", "made_alike", "table differ")
class Unseeded(Good):
    """Draws from a generator that the kit does not seed; scale."""

    rng = np.random.default_rng(0)

    def __init__(self, dims: Any, *, scale: float = 1.0) -> None:
        super().__init__(dims, scale=scale)
        self.register_buffer("table", torch.tensor(self.rng.random()))


@breaks("objective", "requires", "the target network has no predictor")
class NoRow(Good):
    requires: ClassVar = {"p": "online.prediction.scene: b v d", "z": "target.prediction.scene: b v d"}


@breaks("objective", "forward_parameters", "requires names ['q', 'z']")
class Renamed(Good):
    requires: ClassVar = {"q": "online.prediction.scene: b v d", "z": "target.projection.scene: b v d"}


@breaks("objective", "finite_scalars", "reduce it to a scalar")
class Vector(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return self.factor * safe.cosine_similarity(p, z).mean(1)


@breaks("objective", "gradients", "no gradient reaches the parameters unused")
class Idle(Good):
    def __init__(self, dims: Any) -> None:
        super().__init__(dims)
        self.unused = nn.Parameter(torch.zeros(1))


@breaks("objective", "target_gets_no_gradient", "target rows z")
class Pulls(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p, z.requires_grad_())


@breaks("objective", "inputs_untouched", "changes z in place")
class InPlace(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p, z.mul_(2))


@breaks("objective", "order_of_batch", "are in another order")
class Ordered(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return self.factor * safe.cosine_similarity(p[0], z[0]).mean()


@breaks("objective", "deterministic", "different results")
class Noisy(Good):
    rng = np.random.default_rng(0)

    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p + self.rng.normal(), z)


@breaks("objective", "random_state", "global random state of torch")
class Draws(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p + 0.1 * torch.randn_like(p), z)


@breaks("objective", "zero_embeddings", "not finite when all embeddings are zero")
class Norms(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return self.factor * (p.square().sum(-1).sqrt() - z.norm(dim=-1)).square().mean()


@breaks("objective", "duplicate_embeddings", "when all embeddings are the same")
class Spread(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return self.factor / p.var(0).mean() + 0 * z.mean()


@breaks("objective", "large_embeddings", "a thousand times larger")
class Exponential(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return self.factor * p.exp().mean() + 0 * z.mean()


@breaks("objective", "small_embeddings", "scaled by 1e-20")
class Quotient(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return self.factor * (p * z).sum() / (p.square().sum() * z.square().sum()).sqrt()


@breaks("objective", "gradcheck", "detached on purpose")
class Detached(Good):
    couples_batch = True

    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p, z) * p.detach().square().mean()


@breaks("objective", "state", "after a round trip")
class Forgetful(Good):
    def __init__(self, dims: Any) -> None:
        super().__init__(dims)
        self.steps = 0

    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p, z) / (1 + self.steps)

    def after_step(self, step: int, epoch: float) -> None:
        self.steps = step


@breaks("objective", "runs_on_meta", "does it read values")
class Peeks(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p, z) * (1 if p.mean() > 0 else 2)


@breaks("objective", "optional_rows", "without part")
class NeedsParts(Good):
    optional: ClassVar = {"part": "online.projection.part: b k d"}

    def forward(self, p: Tensor, z: Tensor, part: Tensor | None) -> Any:  # type: ignore[override]
        return super().forward(p, z) + (torch.tensor(torch.nan) if part is None else part.mean())


@breaks("objective", "couples_batch", "couples_batch = True")
class Coupled(Good):
    def forward(self, p: Tensor, z: Tensor) -> Any:
        return super().forward(p, z) + p.mean((0, 1)).square().sum()


@breaks("objective", "single_views", "raise ValueError")
class Single(Good):
    def __init__(self, dims: Any) -> None:
        nn.Module.__init__(self)

    def forward(self, p: Tensor, z: Tensor) -> Any:
        v = p.shape[1]
        return (p - z).square().sum() / torch.tensor(float(v - 1))


# ---------------------------------------------------------------------------------------------------- samplers


class Halves(ViewSampler):
    """A random box of half the size, `views` times.

    Args:
        views: Number of views.
    """

    name = "halves"

    def __init__(self, *, views: Annotated[int, Field(ge=1)] = 2) -> None:
        self.views = views

    @property
    def groups(self) -> dict[str, int]:
        return {"scene": self.views}

    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        half = np.array([width / 2, height / 2])
        low = rng.random((self.views, 2)) * half
        boxes = np.concatenate([low, low + half], 1)
        return Sample({"scene": np.minimum(boxes, (width, height, width, height)).astype(np.float32)})


@breaks("sampler", "groups", "not a positive number")
class NoViews(Halves):
    @property
    def groups(self) -> dict[str, int]:
        return {"scene": 0}


@breaks("sampler", "boxes", "has shape (2, 4)")
class Miscounted(Halves):
    @property
    def groups(self) -> dict[str, int]:
        return {"scene": 3}


@breaks("sampler", "tiny_images", "outside the image in an image of 20 x 20")
class AtLeast(Halves):
    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        return Sample({"scene": np.array([[0, 0, 32, 32]] * 2, np.float32)})


@breaks("sampler", "huge_images", "outside the image in an image of 3000 x 12000")
class Narrow(Halves):
    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        boxes = super().sample(height, width, proposals, rng).boxes["scene"]
        return Sample({"scene": boxes - (1 if width > 10_000 else 0) * width})


@breaks("sampler", "no_proposals", "with 0 proposals")
class Chooses(Halves):
    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        return Sample({"scene": proposals[np.arange(2) % max(len(proposals), 1)] if len(proposals) else empty()})


@breaks("sampler", "poor_proposals", "with 1 proposals")
class ChoosesTwo(Halves):
    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        return Sample({"scene": proposals[:2]})


@breaks("sampler", "deterministic", "draw all random numbers from rng")
class Remembers(Halves):
    own = np.random.default_rng(0)

    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        return super().sample(height, width, proposals, self.own)


@breaks("sampler", "random_state", "global random state of numpy")
class Global(Halves):
    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        np.random.rand()
        return super().sample(height, width, proposals, rng)


@breaks("sampler", "proposals_untouched", "writes into the proposals")
class Scribbles(Halves):
    def sample(self, height: int, width: int, proposals: Any, rng: np.random.Generator) -> Sample:
        proposals += 1
        return super().sample(height, width, proposals, rng)


# --------------------------------------------------------------------------------------------------- backbones


class Small(Backbone):
    """Two convolutions.

    Args:
        width: Of the features.
    """

    name = "small"
    gives: ClassVar = {"features": "f", "map": "f h w"}

    def __init__(self, *, width: Annotated[int, Field(ge=1)] = 8) -> None:
        super().__init__()
        self.dim = width
        self.net = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.net(x)
        return {"features": y.mean((2, 3)), "map": y}


@breaks("backbone", "gives", "add 'features'")
class OnlyMap(Small):
    gives: ClassVar = {"map": "f h w"}


@breaks("backbone", "shapes", "dim is 9")
class WrongDim(Small):
    def __init__(self) -> None:
        super().__init__()
        self.dim = 9


@breaks("backbone", "shapes_on_meta", "but 8 elsewhere")
class OtherOnMeta(Small):
    def __init__(self) -> None:
        super().__init__()
        self.dim = 1 if self.net[0].weight.is_meta else 8


@breaks("backbone", "gradients", "no gradient reaches fc.weight")
class Classifier(Small):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)


@breaks("backbone", "autocast", "not finite under bfloat16")
class Overflows(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rows = super().forward(x)
        half = rows["map"].dtype == torch.bfloat16
        return {name: row * (torch.inf if half else 1) for name, row in rows.items()}


@breaks("backbone", "items_are_apart", "alone and in a batch")
class Centres(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x - x.mean(0))


@breaks("backbone", "input_untouched", "writes into its input")
class Normalises(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x.mul_(2))


@breaks("backbone", "copies", "register what it lacks")
class Hidden(Small):
    def __init__(self) -> None:
        super().__init__()
        self.secret = torch.rand(())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x + self.secret.to(x.device))


# ------------------------------------------------------------------------------------------------------- heads


class Linear(Head):
    """One linear layer.

    Args:
        out: Its width.
    """

    name = "linear"

    def __init__(self, dims: Any, *, out: int = 5) -> None:
        super().__init__()
        self.out_dim = out
        self.layer = nn.Linear(dims["d"], out)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@breaks("head", "head_shapes", "out_dim 5")
class Sums(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sum(1)


@breaks("head", "head_on_meta", "out_dim")
class HeadOnMeta(Linear):
    def __init__(self, dims: Any) -> None:
        super().__init__(dims)
        self.out_dim = 1 if self.layer.weight.is_meta else 5


# ----------------------------------------------------------------------------------------------------- sources


class Squares(Source):
    """Plain images with a labelled square each.

    Args:
        images: Number of images.
    """

    name = "squares"
    categories: ClassVar = ("square",)

    def __init__(self, *, images: Annotated[int, Field(ge=1)] = 4) -> None:
        self.images = images

    def open(self) -> None:
        pass

    def __len__(self) -> int:
        return self.images

    def key(self, index: int) -> str:
        return f"squares/{index:03d}.png"

    def read(self, index: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (40, 30), (index, 0, 0)).save(file, "PNG")
        return file.getvalue()

    def objects(self, index: int) -> Objects:
        return Objects(np.array([[5, 5, 15, 15]], np.float32), np.array([0]))


@breaks("source", "length", "it is empty")
class Empty(Squares):
    def __len__(self) -> int:
        return 0


@breaks("source", "keys", "occur twice")
class Twice(Squares):
    def key(self, index: int) -> str:
        return "same.png"


@breaks("source", "images", "has different bytes")
class Changing(Squares):
    rng = np.random.default_rng(0)

    def read(self, index: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (40, 30), (int(self.rng.integers(256)), 0, 0)).save(file, "PNG")
        return file.getvalue()


@breaks("source", "labels", "outside the image")
class Outside(Squares):
    def objects(self, index: int) -> Objects:
        return Objects(np.array([[5, 5, 45, 15]], np.float32), np.array([0]))


@breaks("source", "workers", "it cannot be pickled, as worker processes require: ")
class Unpicklable(Squares):
    def open(self) -> None:
        self.reader = lambda index: index


@breaks("source", "threads", "bytes differ when several threads read at once: set reads_in_threads = False")
class OneHandle(Squares):
    """Images after each other in one file, which threads move for each other."""

    reads_in_threads = True

    def read(self, index: int) -> bytes:
        self.position = index
        time.sleep(0)  # as a seek does, it lets other threads run
        return super().read(self.position)


@breaks("source", "threads", "keys, labels, objects differ when several threads read at once")
class OneCursor(Squares):
    """Names, labels and boxes in one table, whose cursor threads move for each other."""

    reads_in_threads = True

    def at(self, index: int) -> int:
        self.row = index
        time.sleep(0)
        return self.row

    def key(self, index: int) -> str:
        return super().key(self.at(index))

    def label(self, index: int) -> int | None:
        return self.at(index) % 2

    def objects(self, index: int) -> Objects:
        return Objects(np.array([[0, 0, 9, 9 + self.at(index) % 9]], np.float32), np.array([0]))


@breaks("source", "threads", "key() fails in another thread")
class OneThread(Squares):
    """Keys from a connection that belongs to the thread that made it."""

    def open(self) -> None:
        super().open()
        self.owner = threading.get_ident()

    def key(self, index: int) -> str:
        if threading.get_ident() != self.owner:
            raise RuntimeError("made in another thread")
        return super().key(index)


@breaks("source", "constructor_is_idle", "report missing files in missing()", options={"root": __file__})
class Eager(Squares):
    """Opens root at once."""

    def __init__(self, *, root: str) -> None:
        super().__init__()
        Path(root).read_text()


# ------------------------------------------------------------------------------------------------------ probes


class Means(Probe):
    """Accuracy of the nearest mean."""

    name = "means"

    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        if len(train.labels) < 2:
            raise DataError("two training samples are needed")
        means = torch.stack([train.features[train.labels == label].mean(0) for label in train.labels.unique()])
        guess = train.labels.unique()[torch.cdist(test.features, means).argmin(1)]
        return {"top1": (guess == test.labels).float().mean().item()}


@breaks("probe", "figures", "'top1' is nan")
class NotANumber(Means):
    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        return {"top1": float("nan")}


@breaks("probe", "takes", "write a tuple of")
class TakesAnything(Means):
    takes = ("labels",)


@breaks("probe", "random_state", "changes the global random state of torch")
class TakesRandomNumbers(Means):
    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        torch.rand(1)
        return super().evaluate(train, test)


@breaks("probe", "tells_apart", "no score is higher")
class Guesses(Means):
    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        return {"top1": (test.labels == 0).float().mean().item()}


@breaks("probe", "deterministic", "different scores")
class Random(Means):
    rng = np.random.default_rng(0)

    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        return {"top1": self.rng.random()}


@breaks("probe", "order_of_test", "depends on the order")
class First(Means):
    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        return {"first": float(test.features[0, 0])}


@breaks("probe", "inputs_untouched", "changes features in place")
class Scales(Means):
    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        train.features.mul_(2)
        return {"top1": 0.0}


@breaks("probe", "few_samples", "raise DataError with a message")
class Crashes(Means):
    def evaluate(self, train: Any, test: Any) -> dict[str, float]:
        return {"top1": {0: 1.0}[1]} if len(train.labels) < 2 else super().evaluate(train, test)


GOOD = (Good, Halves, Small, Linear, Squares, Means)
