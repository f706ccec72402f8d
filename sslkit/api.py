"""The contracts: what a source, sampler, proposer, backbone, head, objective and probe are.

A component is a class with a `name`. **Its constructor is its option schema**: parameters left of `*` are wired in by
the core, parameters right of `*` are what a recipe may set, typed and ranged with `Annotated[int, Field(ge=1)]`. The
first line of its docstring is what listings show. A component keeps its options and does no work in the constructor:
it is also made, on torch's meta device, to check a recipe.

Axes: `b` batch, `v` views, `k` instances, `d` embedding, `f` features, `c h w` maps, `t` tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sslkit.boxes import Boxes, empty

Dims = Mapping[str, int]
"""Sizes of a component's named axes, as the recipe binds them."""

Progress = Callable[[str, int, int], None]
"""Called as `progress("what", done, total)` while something takes its time."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Objects:
    """Labelled objects of one image.

    Attributes:
        boxes: Shape (n, 4), xyxy pixels.
        labels: Shape (n,), int64, indices into the source's `categories`.
        difficult: Shape (n,), bool: objects that count neither for nor against a classifier; None: there are none.
    """

    boxes: Boxes = field(default_factory=empty)
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    difficult: npt.NDArray[np.bool_] | None = None


class Source(ABC):
    """A data set: an ordered list of encoded images, each with a stable key.

    The core calls `missing`, then `prepare` (one process), then `open` (every process), and only then reads items.
    It is handed to worker processes, so after `open` it holds arrays rather than Python objects per item.
    """

    name: ClassVar[str]
    opens_folder: ClassVar[bool] = False
    """Whether `cls(root=folder)` reads any folder of images. Commands that accept a folder in place of a recipe use the
    one installed source that declares this."""
    example: ClassVar[Mapping[str, Any] | None] = None
    """Options that open labelled images of the user's own, such as `{"root": "images"}`, for hints in messages."""
    categories: Sequence[str] = ()
    """Names of the labels, where there are any; known after `open`."""

    def missing(self) -> str | None:
        """Say quickly, without reading the data, what is missing and which commands get it; None when all is there."""
        return None

    def prepare(self, progress: Progress) -> None:  # noqa: B027 - most sources have nothing to prepare
        """Make what is missing and can be made, such as a rendered data set."""

    @abstractmethod
    def open(self) -> None:
        """Index the data.

        Raises:
            DataError: There is nothing to read.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the stable name of image `index`: a relative path, unique in the source."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the encoded bytes of image `index` (JPEG, PNG, ...).

        Raises:
            DataError: It cannot be read.
        """

    def objects(self, index: int) -> Objects:  # noqa: ARG002
        """Return the labelled objects of image `index`; none by default."""
        return Objects()

    def label(self, index: int) -> int | None:  # noqa: ARG002
        """Return the label of the whole image `index`, or None."""
        return None


class Proposals(ABC):
    """Region proposals of every image of one source, in the source's order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Boxes:
        """Return the boxes of image `index`: shape (n, 4), xyxy pixels of the original image."""


class Proposer(ABC):
    """A way to find regions that may hold objects."""

    name: ClassVar[str]
    is_default: ClassVar[bool] = False
    """Whether commands on a folder of images, which have no recipe, use this proposer with its default options. One
    installed proposer may declare it."""

    @abstractmethod
    def missing(self, source: Source) -> str | None:
        """Say what `open` would lack for `source` and the command that makes it, or None.

        The word RECIPE in it is replaced by the recipe in use, with its overrides.
        """

    @abstractmethod
    def build(self, source: Source, progress: Progress, jobs: int) -> None:
        """Compute and store what `open` needs, with `jobs` processes; go on where an earlier call stopped."""

    @abstractmethod
    def open(self, source: Source) -> Proposals:
        """Return the proposals of `source`, memory-mapped or computed on the fly.

        Raises:
            DataError: They have not been built.
        """


@dataclass(frozen=True)
class Sample:
    """The boxes of one image's views, and what was counted while drawing them.

    Attributes:
        boxes: View group -> shape (v, 4), xyxy pixels, float.
        counts: Name -> number, averaged and reported per epoch ("fallback" -> 0 or 1).
    """

    boxes: Mapping[str, Boxes]
    counts: Mapping[str, float] = field(default_factory=dict)


class ViewSampler(ABC):
    """Geometry only: from an image's size, its proposals and a random generator to named groups of boxes.

    The core cuts, resizes and augments them.
    """

    name: ClassVar[str]
    needs_proposals: ClassVar[bool] = False

    @property
    @abstractmethod
    def groups(self) -> Mapping[str, int]:
        """View group -> number of views, for example `{"scene": 2, "instance": 4}`."""

    @abstractmethod
    def sample(self, height: int, width: int, proposals: Boxes, rng: np.random.Generator) -> Sample:
        """Draw the views of one image of `height` x `width` pixels.

        Args:
            height: Of the decoded, upright image.
            width: Of the decoded, upright image.
            proposals: Shape (n, 4), xyxy pixels; (0, 4) when the sampler does not need them.
            rng: The only source of randomness: seeded by (seed, epoch, item).
        """


# ---------------------------------------------------------------------------------------------------- networks


class Backbone(nn.Module, ABC):
    """Images to features.

    Class attribute `gives` names what `forward` returns: `features` always, `map` and `tokens` where there are any.
    A constructed backbone knows its feature size, `dim`, also on the meta device.
    """

    name: ClassVar[str]
    gives: ClassVar[Mapping[str, str]] = {"features": "f"}
    """Row -> axes behind the batch: `{"features": "f", "map": "f h w"}`."""
    dim: int
    """Size of axis `f`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        """Map normalised images (n 3 h w) to `{"features": n f, ...}`, keys as in `gives`."""


class Head(nn.Module, ABC):
    """A projector or predictor: `__init__(self, dims, *, ...)` gets `dims["d"]`, the size of what comes in."""

    name: ClassVar[str]
    takes: ClassVar[str] = "features"
    """The backbone row that it projects: features, map or tokens."""
    example: ClassVar[Mapping[str, Any] | None] = None
    """Options, such as `{}`, with which hints in messages suggest this head; None: they suggest others."""
    gives: ClassVar[str] = "d"
    """Axes of what it returns behind (n): "d", or "d h w" for a head that keeps a map."""
    out_dim: int
    """Size of axis `d` of what it returns."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map (n d) to (n out_dim); a head of maps (n d h w) to (n out_dim h w)."""

    def after_step(self, step: int, epoch: float) -> None:
        """Update own state once per optimizer step, as `Objective.after_step` does; called on the online network."""


# -------------------------------------------------------------------------------------------------- objectives


class Terms(NamedTuple):
    """What an objective returns when one scalar does not say enough.

    Attributes:
        terms: Name -> scalar; the loss is their sum.
        monitors: Name -> scalar that is shown and logged, but not part of the loss.
    """

    terms: Mapping[str, Tensor]
    monitors: Mapping[str, Tensor] = {}


class Objective(nn.Module, ABC):
    """A loss on named embeddings: a pure function of what it declares.

    `requires` maps each parameter of `forward` to a row of the embedding table and its axes:

        requires = {"p": "online.prediction.scene: b v d", "z": "target.projection.scene: b v d"}

    Rows are `{online|target}.{features|map|tokens|projection|prediction}.{group}` (there is no `target.prediction`)
    and `batch.{boxes|flipped}.{group}`, `batch.{size|index}`. What comes from the target arrives detached; everything
    is float32. The constructor gets `dims`, the sizes of the named axes; raise ValueError there when
    one cannot be served ("needs two views or more, got 1"), and the recipe is refused with that reason. Where
    `couples_batch` is true a recipe's `dims` have `b` too, the images of a forward pass over all processes.
    """

    name: ClassVar[str]
    requires: ClassVar[Mapping[str, str]]
    optional: ClassVar[Mapping[str, str]] = {}
    """Rows that are handed over where the sampler gives their group; else the parameter is None, and `dims` lacks
    the axes that only they name."""
    couples_batch: ClassVar[bool] = False
    """Whether an image's loss depends on the other images. Then every process is handed the rows of all processes, in
    the order of one process with the same batch, and gradients come out as there."""

    @abstractmethod
    def forward(self, **rows: Tensor) -> Tensor | Mapping[str, Tensor] | Terms:
        """Return a scalar, named scalars whose sum is the loss, or those with monitors."""

    def after_step(self, step: int, epoch: float) -> None:
        """Update own state once per optimizer step, after the target's EMA update.

        Args:
            step: Optimizer steps done, from 1.
            epoch: The same in epochs: steps done over steps per epoch.
        """


# ------------------------------------------------------------------------------------------------------ probes


@dataclass(frozen=True)
class Labelled:
    """Frozen features with labels.

    Attributes:
        features: Shape (n, f), float32, on the CPU.
        labels: Shape (n,), int64: one category each; or (n, c), bool: a set of categories each.
        categories: Names of the labels, c of them; may be empty where there is one label each.
        images: Shape (n,), int64: which image each comes from, so that a split keeps an image's crops together.
            None: each comes from an image of its own.
        ignored: Shape (n, c), bool, beside sets of labels: where nothing is known, and neither answer is wrong.
        device: Where a probe may compute: that of the backbone.
    """

    features: Tensor
    labels: Tensor
    categories: Sequence[str] = ()
    images: Tensor | None = None
    ignored: Tensor | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def multi_label(self) -> bool:
        """Whether each has a set of labels rather than one."""
        return self.labels.ndim == 2

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.labels)


class Probe(ABC):
    """Measures frozen features: `__init__(self, *, ...)`."""

    name: ClassVar[str]
    takes: ClassVar[Sequence[str]] = ("single-label",)
    """What it can measure: "single-label", "multi-label" or both. A recipe that asks for more is refused."""

    @abstractmethod
    def evaluate(self, train: Labelled, test: Labelled) -> Mapping[str, float]:
        """Return named figures of the test features.

        Figures are rates in [0, 1], except where the name begins with `chosen_` (a setting that the probe has chosen)
        or `count_`.

        Raises:
            DataError: These features or labels cannot be measured; say why, and what would help.
        """


# ------------------------------------------------------------------------------------------------------- a run


@dataclass
class Run:
    """What observers see of a run. They look and do not touch.

    Attributes:
        folder: Where it is kept.
        recipe: The resolved recipe.
        steps: Optimizer steps of the whole recipe.
        steps_per_epoch: Optimizer steps of one epoch.
        step: Optimizer steps done; more than 0 at the start of a resumed run.
    """

    folder: Path
    recipe: Mapping[str, Any]
    steps: int
    steps_per_epoch: int
    step: int = 0
