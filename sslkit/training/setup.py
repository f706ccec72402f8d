"""Turn a plan into networks, optimizer, schedules and batches on the device of this rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sslkit.api import Source
from sslkit.contracts.proposals import CheckedProposals
from sslkit.data.cache import GB, Cache
from sslkit.data.epochs import Epochs, listing
from sslkit.data.loader import Loader
from sslkit.data.views import ViewDataset
from sslkit.errors import DataError
from sslkit.folders import cores, processes
from sslkit.networks import StepModule, activation_checkpointing, cuda_graph, sharding, small_maps, strided_pointwise
from sslkit.optim import make_optimizer
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import Recipe
from sslkit.schedules import LearningRate
from sslkit.training import agreement
from sslkit.training.collapse import RecipeTraits
from sslkit.training.early_verdict import SMALL_VIEW, USUAL_HUE, USUAL_SATURATION, LearningTraits
from sslkit.training.hardware import is_single_device, precision_of
from sslkit.training.options import RunOptions, default_workers

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricOptimizer


@dataclass
class Setup:
    """The networks, optimizer, schedules and batches of a run.

    Attributes:
        epochs: The images of each batch of this rank.
        listing: Number of images, and a hash of their names.
        steps: Optimizer steps of the whole run.
        lr: Learning rate as a function of the step.
        network: The networks and objectives.
        module: The same, wrapped by Fabric.
        cache: Decoded images, if the options ask for a cache.
    """

    plan: Plan
    options: RunOptions
    fabric: Fabric
    source: Source
    proposals: CheckedProposals | None
    epochs: Epochs
    listing: dict[str, Any]
    steps: int
    lr: LearningRate
    network: StepModule
    module: Any
    optimizer: _FabricOptimizer
    cache: Cache | None

    @property
    def recipe(self) -> Recipe:
        """The plan's recipe."""
        return self.plan.recipe

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        return self.fabric.device

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has a part of every parameter."""
        return sharding.is_sharded(self.network)

    @property
    def needs_no_wrappers(self) -> bool:
        """Whether Fabric's wrappers would add nothing: one device, and losses that are not scaled."""
        return is_single_device(self.fabric) and self.recipe.precision != "16-mixed"

    @property
    def workers(self) -> int:
        """Loader processes of this rank."""
        wanted = self.options.workers
        if wanted is None:
            wanted = default_workers(cores(), torch.get_num_threads() if self.device.type == "cpu" else 1)
        return processes(wanted)

    def loader(self, start: int, stop: int) -> Loader:
        """Return the batches of the steps from `start` to `stop`."""
        items = self.epochs.micro_batches(start, stop)
        dataset = ViewDataset(self.plan, self.source, self.proposals, self.device.type == "cpu", self.cache)
        return Loader(dataset, items, self.workers, self.device)


def make_network(plan: Plan, fabric: Fabric) -> StepModule:
    """Make both networks and the objectives, with equal weights on every rank."""
    network = StepModule(plan)
    if shares_batch_norm(plan, fabric):
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network


def shares_batch_norm(plan: Plan, fabric: Fabric) -> bool:
    """Return whether batch norm takes its statistics over all ranks; torch supports that on GPUs only."""
    return plan.recipe.forward.sync_batch_norm and fabric.world_size > 1 and fabric.device.type == "cuda"


def set_up(
    plan: Plan, options: RunOptions, fabric: Fabric, source: Source, proposals: CheckedProposals | None,
    make_network: Callable[[Plan, Fabric], StepModule] = make_network,
) -> Setup:  # fmt: skip
    """Build what a plan trains, to be called on all ranks.

    Raises:
        DataError: Ranks see different images, or there are too few for a batch.
        UsageError: An option is not possible with this recipe or device.
    """
    epochs, images = _epochs(plan.recipe, fabric, source), listing(source)
    agreement.check_same_images(fabric, images)
    _refuse_copies(len(source), plan.recipe.batch_size)
    steps = plan.recipe.total_steps(epochs.steps)
    lr = _learning_rate(plan.recipe, steps, epochs.steps)
    network = _prepared(make_network(plan, fabric), plan.recipe, options, fabric)
    module = fabric.setup_module(network)
    optimizer = _optimizer(network, lr(0), plan, fabric)
    if fabric.world_size > 1:
        network.gather = lambda rows: agreement.gather(fabric, rows)
        network.mean = lambda values: agreement.mean(fabric, values)
    cache = _cache(len(source), options, fabric)
    return Setup(plan, options, fabric, source, proposals, epochs, images, steps, lr, network, module, optimizer, cache)


def _refuse_copies(images: int, batch_size: int) -> None:
    """Refuse a batch that is larger than the data set.

    It would hold copies of images with the same views, which contrastive objectives push apart.

    Raises:
        DataError: There are fewer images than a batch has.
    """
    if images < batch_size:
        raise DataError(
            f"{images} images do not fill a batch of {batch_size}: it would hold copies of them with the same views. "
            f"Use more images, or write batch_size = {images} or less"
        )


def _epochs(recipe: Recipe, fabric: Fabric, source: Source) -> Epochs:
    return Epochs.of(recipe, len(source), fabric.global_rank, fabric.world_size)


def _learning_rate(recipe: Recipe, steps: int, steps_per_epoch: int) -> LearningRate:
    table, peak = recipe.optimizer, recipe.optimizer.lr(recipe.batch_size)
    in_epochs = round(table.warmup_epochs * steps_per_epoch)
    return LearningRate(
        base=peak, steps=steps, warmup=in_epochs if table.warmup_steps is None else table.warmup_steps,
        warmup_start_ratio=table.warmup_start, final=table.final_lr * peak, decay_from=table.decay_from,
    )  # fmt: skip


def _prepared(network: StepModule, recipe: Recipe, options: RunOptions, fabric: Fabric) -> StepModule:
    """Apply the options of a step to the networks."""
    if options.checkpoint_activations:
        activation_checkpointing.recompute(network.online.backbone)
    if fabric.device.type == "cpu":
        strided_pointwise.guard(network)
        if precision_of(recipe) == "bf16-mixed":
            small_maps.guard(network)
    if options.compile:
        network.compile_backbones()
    if options.cuda_graph:
        cuda_graph.check(recipe, precision_of(recipe), fabric)
    return network


def _optimizer(network: StepModule, lr: float, plan: Plan, fabric: Fabric) -> _FabricOptimizer:
    optimizer = make_optimizer(plan.recipe.optimizer.use, network, lr, plan.optimizer)
    if plan.recipe.precision == "16-mixed":  # Fabric does not clip if an optimizer unscales gradients by itself
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    wrapped = fabric.setup_optimizers(optimizer)
    assert not isinstance(wrapped, tuple)
    return wrapped


def _cache(images: int, options: RunOptions, fabric: Fabric) -> Cache | None:
    """Return a cache of this rank's share of the memory that its machine may use for decoded images."""
    size = round(options.cache_gb * GB) * options.nodes // fabric.world_size
    return Cache(images, size) if size else None


def recipe_traits(setup: Setup) -> RecipeTraits:
    """Return the traits of the recipe that keep features apart."""
    plan, recipe, online = setup.plan, setup.recipe, setup.network.online
    heads = [part for modules in (online.projectors, online.predictors) for part in modules.modules()]
    return RecipeTraits(
        predicts=any(row.kind == "prediction" for row in plan.rows),
        couples=any(item.objective.component.cls.couples_batch for item in plan.objectives),
        target=plan.has("target"), momentum=(recipe.target.momentum, recipe.target.momentum_end),
        batch_norm=any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in heads),
        images=recipe.batch_size // (recipe.accumulate * setup.fabric.world_size),
        lr=setup.lr.base, warmup=setup.lr.warmup,
    )  # fmt: skip


def learning_traits(setup: Setup) -> LearningTraits:
    """Return the traits of the recipe that decide how soon features improve."""
    plan = setup.plan
    small = {group: views for (group, _), views in plan.views.items() if views[0].size < SMALL_VIEW}
    weak = {
        group: view
        for group, views in small.items()
        for view in views
        if view.saturation <= USUAL_SATURATION and view.hue <= USUAL_HUE
    }
    return LearningTraits(
        single_cell=plan.single_cell,
        plain_projectors=tuple(
            name for name, head in plan.heads.items() if head.projector.options.get("last_norm") is False
        ),
        blurred={group: views[0].size for group, views in small.items() if any(view.blur for view in views)},
        weak_colour={group: (view.size, view.saturation, view.hue) for group, view in weak.items()},
        lr=setup.lr.base,
    )
