"""The tables of a recipe and their keys, as pydantic models. Nothing here needs torch.

Tables that name a component with `use` pass their other keys on; the planner checks them against the component's own
signature.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sslkit.planning.target_table import TargetTable

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$")]
"""The name of a head, objective, group or probe, in kebab-case."""
BatchNorm = Literal["per-view", "per-group"]
NO_LENGTH = "the recipe has no length: write exactly one of epochs = ... and steps = ..."
LONGEST = 10**9
"""Most epochs or steps of a run and of its warm-up: beyond any training, and within what clocks and counters hold."""
LARGEST_SIDE = 4096
"""Side of the largest view and of the largest crop of a probe, pixels."""
LARGEST_BATCH = 2**20
"""Most images of an optimizer step; batches of 32,768 are the largest in use."""


class RecipeTable(BaseModel):
    """A table that has these keys and no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Choice(BaseModel):
    """A table that names a component with `use`; its other keys are the component's options."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    use: str = Field(description="Id of the component, or its short name")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are options of the component."""
        return dict(self.__pydantic_extra__ or {})


class ProposalsTable(Choice):
    """The region proposals that the sampler chooses from."""

    when_missing: Literal["stop", "build"] = Field(
        default="stop", description="Stop and name the command that builds them, or build them before training"
    )


class HeadTable(RecipeTable):
    """A projector, and a predictor where an objective reads predictions."""

    projector: Choice
    predictor: Choice | None = None


class ForwardTable(RecipeTable):
    """How views pass through the networks."""

    batch_norm: BatchNorm | dict[Name, BatchNorm] = Field(
        default="per-view",
        description="One forward pass and set of statistics per view (BYOL), or per group; a table sets it per group",
    )
    sync_batch_norm: bool = Field(default=True, description="Share batch statistics between devices (GPUs only)")

    def norm_of(self, group: str) -> str:
        """Return the setting of a view group."""
        return self.batch_norm if isinstance(self.batch_norm, str) else self.batch_norm.get(group, "per-view")


class ObjectiveTable(Choice):
    """One objective of the total loss; the name of its table is its name in logs and listings."""

    use: str = ""
    weight: float = Field(default=1.0, description="Factor of this objective in the total loss")
    head: str = Field(default="main", description="The head in [heads] whose projections and predictions it reads")
    inputs: dict[Name, Name] = Field(default={}, description='Other view groups to read: inputs = { scene = "global" }')


class OptimizerTable(Choice):
    """The optimizer and its schedules, counted in optimizer steps."""

    base_lr: float = Field(gt=0, description="Learning rate before scaling")
    lr_scaling: Literal["linear", "sqrt", "none"] = Field(
        default="linear",
        description="lr = base_lr * batch_size / 256, base_lr * sqrt(batch_size / 256), or base_lr",
    )
    warmup_epochs: float = Field(default=0.0, ge=0, le=LONGEST, description="Linear warm-up, per step")
    warmup_steps: int | None = Field(
        default=None, ge=0, le=LONGEST, description="The warm-up in steps, instead of epochs"
    )
    warmup_start: float = Field(default=0.0, ge=0, le=1, description="Share of the learning rate at the first step")
    final_lr: float = Field(default=0.0, ge=0, le=1, description="Share of the learning rate at the last step")
    decay_from: Literal["warmup", "start"] = Field(
        default="warmup", description="Where the cosine starts: after the warm-up, or at step 0"
    )
    final_weight_decay: float | None = Field(
        default=None, ge=0, description="Weight decay at the last step, reached along a cosine; constant by default"
    )
    clip_grad_norm: float | None = Field(
        default=None, gt=0, description="Scale gradients down to this norm, taken over all parameters"
    )

    def lr(self, batch_size: int) -> float:
        """Return the peak learning rate for a batch size, over all devices."""
        ratio = batch_size / 256
        factor = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.lr_scaling]
        return self.base_lr * factor


Factor = Annotated[float, Field(gt=0)]


class LoosenTable(RecipeTable):
    """How the boxes of a probe's objects are shifted and scaled, so that no object fills its crop like a template."""

    shift: float = Field(
        default=0.15, ge=0, le=0.5, description="Largest shift on each axis, as a share of the box's own side"
    )
    scale: tuple[Factor, Factor] = Field(
        default=(0.9, 1.5), description="Range of the factor that both sides of a box are multiplied by"
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"the lowest factor comes first; write scale = [{value[1]:g}, {value[0]:g}]")
        return value


class ProbeTable(Choice):
    """A measurement of the frozen backbone, before the first step and after the last."""

    use: str = ""
    source: Choice | None = Field(default=None, description="Labelled images; the recipe's source by default")
    test_source: Choice | None = Field(
        default=None, description="Images to test on, such as another split; a share of the source's by default"
    )
    crops: Literal["objects", "images", "multi-label"] = Field(
        default="objects",
        description="What is classified: crops of labelled objects; whole images by their own label; "
        "or whole images by the set of their objects' categories",
    )
    size: int = Field(
        default=96, ge=8, le=LARGEST_SIDE, description="Side of the square that each crop is resized to, pixels"
    )
    fit: Literal["stretch", "centre-crop"] = Field(
        default="stretch",
        description="How a whole image becomes a square: stretched, or a central crop of 224/256 of the shorter side",
    )
    pool: Literal["mean", "grid-2", "grid-3", "grid-4"] = Field(
        default="mean",
        description="What is measured: the backbone's features, or the means of its map's cells in a grid of n x n",
    )
    min_side: float = Field(default=16.0, ge=1, description="Smaller objects are not cropped, pixels")
    loosen: LoosenTable | None = Field(
        default=None, description="Shift and scale the boxes of objects at random; {} takes the defaults"
    )
    limit: int | None = Field(default=None, ge=2, le=LONGEST, description="Largest number of crops from each source")
    every: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST,
        description="Also measure during training, every so many optimizer steps, on a few crops",
    )
    test_share: float = Field(
        default=0.25, gt=0, lt=1, description="Share of the images to test on, without a test_source"
    )

    @property
    def labels(self) -> Literal["single-label", "multi-label"]:
        """Whether each crop has one label or a set of them."""
        return "multi-label" if self.crops == "multi-label" else "single-label"


MemoryFormat = Literal["channels-last", "contiguous"]
"""The order of a map's numbers in memory: channels last, (b h w c), or contiguous, (b c h w)."""
Probability = Annotated[float, Field(ge=0, le=1)]
Colour = tuple[float, float, float]


class View(RecipeTable):
    """How a view is resized and augmented: one table of `[[augment.GROUP]]`; the operations run in this order."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    network: Literal["both", "online", "target"] = Field(default="both", description="Network that sees these pixels")
    size: int = Field(default=224, ge=8, le=LARGEST_SIDE, description="Side of the square view, pixels")
    interpolation: Literal["bicubic", "bilinear"] = Field(default="bicubic", description="Antialiased")
    flip: Probability = Field(default=0.5, description="Probability of a horizontal flip")
    jitter: Probability = Field(
        default=0.8, description="Probability of colour jitter, four operations in random order"
    )
    brightness: float = Field(default=0.4, ge=0, description="Factor from [1 - x, 1 + x]")
    contrast: float = Field(default=0.4, ge=0, description="Factor from [1 - x, 1 + x]")
    saturation: float = Field(default=0.2, ge=0, description="Factor from [1 - x, 1 + x]")
    hue: float = Field(default=0.1, ge=0, le=0.5, description="Shift from [-x, x], in turns of the colour circle")
    grayscale: Probability = Field(default=0.2, description="Probability of greyscale")
    blur: Probability = Field(default=0.5, description="Probability of a Gaussian blur")
    blur_sigma: tuple[float, float] = Field(default=(0.1, 2.0), description="Range of sigma, pixels")
    solarize: Probability = Field(default=0.0, description="Probability of inverting all values above the threshold")
    solarize_threshold: Probability = 128 / 255
    mean: Colour = Field(default=(0.485, 0.456, 0.406), description="Subtracted last; pixels are in [0, 1]")
    std: Colour = Field(default=(0.229, 0.224, 0.225), description="Divided by last; nothing is clamped after it")


class Recipe(RecipeTable):
    """A complete training run: everything that changes its numbers. Hardware is chosen on the command line."""

    summary: str = ""
    seed: int = Field(default=0, ge=0, lt=2**31)
    epochs: float | None = Field(default=None, gt=0, le=LONGEST)
    steps: int | None = Field(default=None, ge=1, le=LONGEST, description="Optimizer steps, instead of epochs")
    batch_size: int = Field(ge=1, le=LARGEST_BATCH, description="Images per optimizer step, over all devices")
    accumulate: int = Field(default=1, ge=1, le=LARGEST_BATCH, description="Micro-batches per optimizer step")
    last_batch: Literal["pad", "drop"] = Field(
        default="pad", description="Fill an epoch's last batch from the epoch's beginning, or leave the rest out"
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        default="auto", description="auto: whichever of bf16-mixed and 32-true is faster on this machine"
    )
    auto_precision: Literal["32-true", "bf16-mixed"] | None = Field(
        default=None, description="What auto chose when the run began, written by the run"
    )
    auto_memory_format: MemoryFormat | None = Field(
        default=None, description="The memory format that auto chose with it, written by the run"
    )
    on_bad_image: Literal["skip", "stop"] = Field(
        default="skip", description="Replace an unusable image by another one and list it, or end the run"
    )
    max_bad_images: int = Field(default=1000, ge=0, le=LONGEST, description="End a run that would skip more images")
    max_bad_share: float = Field(default=0.01, ge=0, le=1, description="End a run that would skip a larger share")
    min_image_side: int = Field(
        default=8, ge=1, le=LONGEST, description="Images with a shorter side are unusable, pixels"
    )
    source: Choice
    proposals: ProposalsTable | None = None
    sampler: Choice
    backbone: Choice
    heads: dict[Name, HeadTable] = {}
    target: TargetTable = TargetTable()
    objectives: dict[Name, ObjectiveTable] = Field(min_length=1)
    augment: dict[Name, list[View]] = Field(
        description="[[augment.GROUP]]: once for all views of a group, or once each"
    )
    forward: ForwardTable = ForwardTable()
    optimizer: OptimizerTable
    probes: dict[Name, ProbeTable] = {}
    plugins: dict[str, str] = Field(default={}, description="Versions, written by `sslkit resolve`")

    @property
    def memory_format(self) -> MemoryFormat:
        """The memory format of weights and maps: channels last, unless `precision = "auto"` chose another one."""
        return (self.auto_memory_format if self.precision == "auto" else None) or "channels-last"

    @property
    def length(self) -> str:
        """How long training is, in words: "10 epochs" or "500 steps"."""
        return f"{self.steps} steps" if self.steps else f"{self.epochs:g} epoch{'s' * (self.epochs != 1)}"

    def total_steps(self, epoch: int) -> int:
        """Return the optimizer steps of training, where an epoch has this many."""
        return self.steps or max(1, math.ceil((self.epochs or 0) * epoch - 1e-9))

    @model_validator(mode="after")
    def _length(self) -> Recipe:
        if self.epochs is None and self.steps is None:
            raise ValueError(NO_LENGTH)
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"epochs = {self.epochs:g} and steps = {self.steps}: write exactly one of them")
        return self

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        for name, table in [*self.objectives.items(), *self.probes.items()]:
            table.use = table.use or name
        return self


class ProbeRecipe(RecipeTable):
    """The part of a recipe that `sslkit probe` reads; a file may hold these tables alone."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    source: Choice | None = None
    backbone: Choice
    augment: dict[Name, list[View]] = {}
    probes: dict[Name, ProbeTable] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> ProbeRecipe:
        for name, table in self.probes.items():
            table.use = table.use or name
        return self
