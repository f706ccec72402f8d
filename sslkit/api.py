"""The contracts of sources, proposers, samplers, backbones, heads, objectives and probes.

A component is a class with a `name`. **Its constructor is its option schema**: the core fills the parameters left of
`*`, and a recipe may set those right of `*`, typed and ranged with `Annotated[int, Field(ge=1)]`. Listings show the
first line of its docstring. The constructor stores the options and does no work: a component is also built, on torch's
meta device, to check a recipe.

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
"""Called as `progress("what", done, total)` during long operations."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show no progress."""


# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Objects:
    """Labelled objects of one image.

    Attributes:
        boxes: Shape (n, 4), xyxy pixels of the upright image, as `sslkit.images.decode` returns it, and inside it.
        labels: Shape (n,), int64, indices into the source's `categories`.
        difficult: Shape (n,), bool: objects that count neither for nor against a classifier; None if there are none.
        outside: Number of objects that are left out because they lie outside the image, save for less than a pixel.
        turned: Whether EXIF turns the image upright, and the boxes, which were of the stored pixels, with it.
        wrong_size: Whether the annotations give a size that the image has neither stored nor upright.
    """

    boxes: Boxes = field(default_factory=empty)
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    difficult: npt.NDArray[np.bool_] | None = None
    outside: int = 0
    turned: bool = False
    wrong_size: bool = False


class Source(ABC):
    """A data set: an ordered list of encoded images, each with a stable key.

    The core calls `missing`, then `prepare` (one process), then `open` (every process), and only then reads items.
    A source is sent to worker processes, so after `open` it should hold arrays rather than a Python object per item.
    """

    name: ClassVar[str]
    opens_folder: ClassVar[bool] = False
    """Whether `cls(root=folder)` reads any folder of images. Commands that accept a folder in place of a recipe use the
    one installed source that declares this."""
    example: ClassVar[Mapping[str, Any] | None] = None
    """Options to open the user's labelled images, such as `{"root": "images"}`, for hints in messages."""
    reads_in_threads: ClassVar[bool] = False
    """Whether several threads may call `key`, `read`, `objects` and `label` at once, as where `read` opens a file for
    each image. If not, they wait for each other. In any case the thread may be another one than that which called
    `open`."""
    categories: Sequence[str] = ()
    """Names of the labels, if any; known after `open`."""

    def missing(self) -> str | None:
        """Say what is missing and which commands get it, or return None; quick, without reading the data."""
        return None

    def prepare(self, progress: Progress) -> None:  # noqa: B027 - most sources have nothing to prepare
        """Create what is missing and can be created, such as a rendered data set."""

    @abstractmethod
    def open(self) -> None:
        """Index the data.

        Raises:
            DataError: No images were found.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the stable key of image `index`: a relative path, unique in the source."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the encoded bytes of image `index` (JPEG, PNG, ...).

        Like `key`, `objects` and `label` it is called from any thread, one call at a time unless `reads_in_threads` is
        set.

        Raises:
            DataError: The image cannot be read.
        """

    def objects(self, index: int) -> Objects:  # noqa: ARG002
        """Return the labelled objects of image `index`; none by default.

        Raises:
            DataError: Its annotations do not fit the image.
        """
        return Objects()

    def label(self, index: int) -> int | None:  # noqa: ARG002
        """Return the label of the whole image `index`, or None."""
        return None

    def left_out(self) -> Mapping[str, int]:
        """Count what `open` left out of the annotations: `{"crowds": 12}`; nothing by default."""
        return {}


class Proposals(ABC):
    """Region proposals of every image of one source, in the source's order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Boxes:
        """Return the boxes of image `index`: shape (n, 4), float32, xyxy pixels of the upright image, inside it."""


class Proposer(ABC):
    """A method that finds regions which may contain objects."""

    name: ClassVar[str]
    is_default: ClassVar[bool] = False
    """Whether commands on a folder of images, which have no recipe, use this proposer with its default options. One
    installed proposer may declare it."""

    @abstractmethod
    def missing(self, source: Source) -> str | None:
        """Say what `open` lacks for `source` and which command builds it, or return None.

        The core replaces the word RECIPE in the message with the recipe in use, with its overrides.
        """

    @abstractmethod
    def build(self, source: Source, progress: Progress, jobs: int) -> None:
        """Compute and store what `open` needs, with `jobs` processes; continue where an earlier call stopped."""

    @abstractmethod
    def open(self, source: Source) -> Proposals:
        """Return the proposals of `source`, memory-mapped or computed on the fly.

        Raises:
            DataError: The proposals have not been built.
        """


@dataclass(frozen=True)
class Sample:
    """The boxes of one image's views, and counts of how they were drawn.

    Attributes:
        boxes: View group -> shape (v, 4), xyxy pixels, float.
        counts: Name -> number ("fallback" -> 0 or 1), the same names in every sample; the core reports their averages
            per epoch.
    """

    boxes: Mapping[str, Boxes]
    counts: Mapping[str, float] = field(default_factory=dict)


class ViewSampler(ABC):
    """Draw views as boxes: from an image's size, its proposals and a random generator to named groups of boxes.

    A sampler is geometry only. The core crops, resizes and augments the views.
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
            height: Height of the decoded, upright image.
            width: Its width.
            proposals: Shape (n, 4), xyxy pixels; (0, 4) unless the sampler sets `needs_proposals`.
            rng: The only source of randomness, seeded by (seed, epoch, item).
        """


# ---------------------------------------------------------------------------------------------------- networks


class Backbone(nn.Module, ABC):
    """Map images to features.

    The class attribute `gives` names what `forward` returns: always `features`, and `map` and `tokens` if the backbone
    has them. The constructor sets `dim`, the size of the features, also on the meta device.
    """

    name: ClassVar[str]
    gives: ClassVar[Mapping[str, str]] = {"features": "f"}
    """Row -> axes after the batch axis: `{"features": "f", "map": "f h w"}`."""
    dim: int
    """Size of axis `f`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        """Map normalised images (n 3 h w) to `{"features": n f, ...}`, keys as in `gives`."""


class Head(nn.Module, ABC):
    """A projector or predictor: `__init__(self, dims, *, ...)` gets `dims["d"]`, the size of its input."""

    name: ClassVar[str]
    takes: ClassVar[str] = "features"
    """The backbone row that a projector reads: features, map or tokens."""
    example: ClassVar[Mapping[str, Any] | None] = None
    """Options, such as `{}`, that hints in messages suggest for this head; None: hints do not suggest it."""
    gives: ClassVar[str] = "d"
    """Axes of the output after (n): "d", or "d h w" for a head that keeps a map."""
    out_dim: int
    """Size of axis `d` of the output."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map (n d) to (n out_dim); a head of maps (n d h w) to (n out_dim h w)."""

    def after_step(self, step: int, epoch: float) -> None:
        """Update the head's own state once per optimizer step, as in `Objective`; called on the online network only."""


# -------------------------------------------------------------------------------------------------- objectives


class Terms(NamedTuple):
    """Several terms of a loss, with monitors.

    Attributes:
        terms: Name -> scalar; the loss is their sum.
        monitors: Name -> scalar that is shown and logged but is not part of the loss.
    """

    terms: Mapping[str, Tensor]
    monitors: Mapping[str, Tensor] = {}


class Objective(nn.Module, ABC):
    """A loss on named embeddings: a pure function of what it declares.

    `requires` maps each parameter of `forward` to a row of the embedding table and its axes:

        requires = {"p": "online.prediction.scene: b v d", "z": "target.projection.scene: b v d"}

    Rows are `{online|target}.{features|map|tokens|projection|prediction}.{group}` (`target.prediction` does not exist)
    and `batch.{boxes|flipped}.{group}`, `batch.{size|index}`. Rows of the target network arrive detached; everything
    is float32. The constructor gets `dims`, the sizes of the named axes. It raises ValueError for sizes that it does
    not support ("needs two views or more, got 1"), and the recipe is refused with that reason. If `couples_batch`
    is true, `dims` also has `b`, the number of images in a micro-batch over all ranks.
    """

    name: ClassVar[str]
    requires: ClassVar[Mapping[str, str]]
    optional: ClassVar[Mapping[str, str]] = {}
    """Rows that are passed only if the sampler gives their group. Otherwise the parameter is None, and `dims` lacks the
    axes that only these rows name."""
    couples_batch: ClassVar[bool] = False
    """Whether an image's loss depends on the other images. If so, every rank gets the rows of all ranks, in the order
    of a single rank with the same batch, and the gradients are the same as on that rank."""

    @abstractmethod
    def forward(self, **rows: Tensor) -> Tensor | Mapping[str, Tensor] | Terms:
        """Return a scalar, named scalars whose sum is the loss, or `Terms`, which adds monitors."""

    def after_step(self, step: int, epoch: float) -> None:
        """Update the objective's own state once per optimizer step, after the target's EMA update.

        Args:
            step: Optimizer steps done, from 1.
            epoch: `step` divided by the steps per epoch.
        """


# ------------------------------------------------------------------------------------------------------ probes


@dataclass(frozen=True)
class Labelled:
    """Frozen features with labels.

    Attributes:
        features: Shape (n, f), float32, on the CPU.
        labels: Shape (n,), int64: one category each; or shape (n, c), bool: a set of categories each.
        categories: The c names of the labels; may be empty where each has one label.
        images: Shape (n,), int64: the image that each comes from, so that a split keeps an image's crops together.
            None: each comes from a different image.
        ignored: Shape (n, c), bool, for sets of labels: where the label is unknown, so that no answer is wrong.
        device: Where a probe may compute: the backbone's device.
    """

    features: Tensor
    labels: Tensor
    categories: Sequence[str] = ()
    images: Tensor | None = None
    ignored: Tensor | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def multi_label(self) -> bool:
        """Whether each sample has a set of labels rather than a single one."""
        return self.labels.ndim == 2

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.labels)


class Probe(ABC):
    """Measure frozen features: `__init__(self, *, ...)`."""

    name: ClassVar[str]
    takes: ClassVar[Sequence[str]] = ("single-label",)
    """The kinds of labels that it supports: "single-label", "multi-label" or both. Recipes with others are refused."""

    @abstractmethod
    def evaluate(self, train: Labelled, test: Labelled) -> Mapping[str, float]:
        """Return named scores of the test features.

        Scores are rates in [0, 1], unless the name begins with `chosen_` (a setting that the probe has chosen) or
        `count_`.

        Raises:
            DataError: These features or labels cannot be measured; the message says why, and what would help.
        """


# ------------------------------------------------------------------------------------------------------- a run


@dataclass
class Run:
    """The state of a run as observers see it. Observers must not change it.

    Attributes:
        folder: The run's folder.
        recipe: The resolved recipe.
        steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of one epoch.
        step: Optimizer steps done; more than 0 at the start of a resumed run.
    """

    folder: Path
    recipe: Mapping[str, Any]
    steps: int
    steps_per_epoch: int
    step: int = 0
