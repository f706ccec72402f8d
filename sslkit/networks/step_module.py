"""The online and target networks, and the forward pass of a training step, as one module.

Everything that needs gradients is inside `StepModule.forward`, so that DDP and FSDP see all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sslkit.contracts.backward import Part, backward_failure, refuse_unreached
from sslkit.contracts.blame import blamed, breach
from sslkit.contracts.networks import refuse_own_backward, run_objective
from sslkit.networks import monitors
from sslkit.networks.conflict_map import ObjectiveLoss, Timer, conflict_map
from sslkit.networks.ema import ema_update
from sslkit.networks.network import Network
from sslkit.networks.sharding import is_sharded_tensor, local
from sslkit.nn import widen
from sslkit.planning.plan import EmbeddingKey, ObjectivePlan, Plan
from sslkit.plugins import Component
from sslkit.seeds import torch_seeded

LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
"""Memory format in a recipe -> torch's."""
Batch = Mapping[str, Tensor]
"""`pixels.{group}.{network}` (b v 3 h w), `boxes.{group}` (b v 4), `flipped.{group}` (b v), `size` (b 2), `index`."""


class StepOutput(NamedTuple):
    """The output of a step's forward pass.

    Attributes:
        loss: Scalar, the weighted sum of the terms.
        terms: "objective.term" -> scalar, unweighted.
        monitors: Name -> scalar.
        rows: "features" and, if there is one, "projection" -> rows of the first monitored view (b d), detached.
        measured: The conflict map, if it was requested: name -> value, the same on all ranks except for times.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    monitors: dict[str, Tensor]
    rows: dict[str, Tensor]
    measured: dict[str, float]


class StepModule(nn.Module):
    """The online network, the target network if an objective reads it, and the objectives."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        seed = plan.recipe.seed
        self.watched = _watched(plan)
        self.keys = [*plan.rows, *(key for key in self.watched.values() if key not in plan.rows)]
        self.plans = plan.objectives
        self.norms = {group: plan.recipe.forward.norm_of(group) for group in plan.groups}
        self.pixels = {
            (key.group, key.network): ".".join(("pixels", *plan.pixels(key.group, key.network))) for key in self.keys
        }
        with torch_seeded(seed, "backbone"):
            backbone = plan.backbone.make()
        self.online = Network(backbone, plan.backbone.component, plan.heads, seed)
        self.target = _target(self.online, plan) if plan.has("target") else None
        self.objectives = nn.ModuleDict({item.name: _objective(item, seed) for item in plan.objectives})
        objectives = [(item.objective.component, self.objectives[item.name]) for item in plan.objectives]
        self._stateful: list[tuple[Component, Any]] = [*self.online.parts(), *objectives]
        self.parts: list[Part] = [(plan.backbone.component, self.online.backbone), *self._stateful]
        self.givers = {
            item.name: {name: self.online.giver(key) for name, key in item.rows.items() if not isinstance(key, str)}
            for item in plan.objectives
        }
        self.gather: Callable[[Tensor], Tensor] | None = None
        """Concatenates a tensor's rows (b ...) over all ranks, with gradients; None with a single rank."""
        self.mean: Callable[[Tensor], Tensor] | None = None
        """Averages a tensor over all ranks, without gradients; None with a single rank."""
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None
        self.scale = 2.0**12 if plan.recipe.precision == "16-mixed" else 1.0
        self.layout = LAYOUTS[plan.recipe.memory_format]
        self.to(memory_format=self.layout)

    def forward(self, batch: Batch, measure: bool = False, first: bool = False) -> StepOutput:
        """Run every network on every view group that is read, then every objective in float32, or in float64.

        Args:
            batch: Views with their boxes, flips and image sizes.
            measure: Also compute the conflict map, which waits for the device.
            first: Whether this is the first pass of a run, before any backward pass, in which checks may take time.
        """
        images: dict[str, list[Tensor]] = {}
        table = self._embed(batch, "online", images, first)
        with torch.no_grad():
            table.update(self._embed(batch, "target", images, first))
        with torch.autocast(_autocast_type(batch["index"].device.type), enabled=False):
            return self._objectives(batch, table, measure, first)

    def _embed(
        self, batch: Batch, network: str, images: dict[str, list[Tensor]], first: bool
    ) -> dict[EmbeddingKey, Tensor]:
        """Return every embedding that is read from a network; `images` caches the laid-out views for both networks."""
        table: dict[EmbeddingKey, Tensor] = {}
        for group, norm in self.norms.items():
            keys = [key for key in self.keys if (key.network, key.group) == (network, group)]
            if keys:
                pixels = self.pixels[group, network]
                if pixels not in images:
                    images[pixels] = _images(batch[pixels], norm, self.layout)
                embeddings = self._run(network, images[pixels], keys, batch[pixels].shape[1], first)
                table.update(zip(keys, embeddings, strict=True))
        return table

    def _run(
        self, network: str, images: Sequence[Tensor], keys: Sequence[EmbeddingKey], v: int, first: bool
    ) -> list[Tensor]:
        """Return the embeddings of v views, each (b v ...); run a network once per entry of `images`."""
        module = self.online if network == "online" else self.target
        assert module is not None
        outputs = [module(x, keys, first) for x in images]
        if len(outputs) == 1:
            return [embedding.unflatten(0, (-1, v)) for embedding in outputs[0]]
        return [torch.stack(views, dim=1) for views in zip(*outputs, strict=True)]

    def _objectives(self, batch: Batch, table: Mapping[EmbeddingKey, Tensor], measure: bool, first: bool) -> StepOutput:
        terms: dict[str, Tensor] = {}
        rows = {name: table[key].detach().float() for name, key in self.watched.items()}
        target, prediction = rows.pop("target", None), rows.pop("prediction", None)
        values = monitors.every_step(rows.get("projection", rows["features"]), target, prediction)
        losses: dict[str, ObjectiveLoss] = {}
        timer = Timer(batch["index"].device, on=measure)
        for item in self.plans:
            inputs = self._inputs(item, batch, table)
            component, givers = item.objective.component, self.givers[item.name]
            output = run_objective(component, self.objectives[item.name], inputs, givers, first)
            if first:
                refuse_own_backward(component, self.online)
            loss = item.weight * torch.stack(list(output.terms.values())).sum()
            losses[item.name] = ObjectiveLoss(loss, timer.lap())
            terms.update({f"{item.name}.{term}": value.detach() for term, value in output.terms.items()})
            values.update({f"{item.name}.{name}": value.detach() for name, value in output.monitors.items()})
        loss = torch.stack([item.loss for item in losses.values()]).sum()
        self._refuse_constant(loss)
        shared = [*self.online.backbone.parameters()] if measure else []
        with self.backward():
            measured = conflict_map(losses, shared, self.scale, self.mean) if measure else {}
        return StepOutput(loss, terms, values, {name: value[:, 0] for name, value in rows.items()}, measured)

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Name the components at fault where a backward pass inside the block fails.

        Raises:
            PluginError: It failed.
        """
        try:
            yield
        except Exception as error:
            if failure := backward_failure(error, self.parts):
                raise failure from error
            raise

    def _refuse_constant(self, loss: Tensor) -> None:
        """Refuse a loss without a gradient.

        Raises:
            PluginError: It has none, though gradients are computed; the first objective is named.
        """
        if torch.is_grad_enabled() and not loss.requires_grad:
            what = "returned a loss without a gradient, and no other objective has one: nothing can be trained"
            raise breach(self.plans[0].objective.component, "forward", what)

    def refuse_unreached(self) -> None:
        """Refuse objectives whose gradient did not reach the backbone in the first backward pass.

        Raises:
            PluginError: The backbone is to be trained, and got no gradient.
        """
        refuse_unreached(self.online.backbone, [item.objective.component for item in self.plans])

    def _inputs(
        self, item: ObjectivePlan, batch: Batch, table: Mapping[EmbeddingKey, Tensor]
    ) -> dict[str, Tensor | None]:
        """Return the arguments of an objective's `forward`."""
        inputs = {name: _input(key, batch, table) for name, key in item.rows.items()}
        cls = item.objective.component.cls
        if self.gather is not None and cls.couples_batch:
            inputs = {name: self.gather(value) for name, value in inputs.items()}
        return {**dict.fromkeys(cls.optional), **inputs}

    def compile_backbones(self) -> None:
        """Let torch compile the backbones of both networks when they are first used."""
        from torch._functorch import config

        config.donated_buffer = False  # the conflict map runs backward more than once
        for network in (self.online, self.target):
            if network is not None:
                network.backbone.compile()

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target's parameters towards the online ones; its batch norm keeps its own statistics."""
        if self.target is not None:
            ema_update(*self._followed(self.target), momentum)

    def _followed(self, target: Network) -> tuple[list[Tensor], list[Tensor]]:
        """Return the target's parameters and the online ones that they follow; look them up once."""
        if self._pairs is not None:
            return self._pairs
        online, named = dict(self.online.named_parameters()), list(target.named_parameters())
        parameters, followed = [parameter for _, parameter in named], [online[name] for name, _ in named]
        if any(map(is_sharded_tensor, parameters)):  # a rank's shards may have moved in memory by the next step
            return [*map(local, parameters)], [*map(local, followed)]
        self._pairs = list[Tensor](parameters), list[Tensor](followed)
        return self._pairs

    def after_step(self, step: int, epoch: float) -> None:
        """Let objectives and heads update their own state."""
        for component, part in self._stateful:
            with blamed(component, "after_step"):
                part.after_step(step, epoch)


def _target(online: Network, plan: Plan) -> Network:
    """Copy the online network with those projectors that are read from the target, without gradients, in train mode."""
    read = {key.head for key in plan.rows if key.network == "target"}
    target = copy.deepcopy(online)
    target.predictors = nn.ModuleDict()
    target.projectors = nn.ModuleDict({name: head for name, head in target.projectors.items() if name in read})
    return target.requires_grad_(False)


def _objective(item: ObjectivePlan, seed: int) -> nn.Module:
    with torch_seeded(seed, "objectives", item.name):
        objective: nn.Module = item.objective.make(dict(item.dims))
    return objective


def _images(x: Tensor, norm: str, layout: torch.memory_format) -> list[Tensor]:
    """Return a network's inputs from views (b v 3 h w): all at once, ((b v) 3 h w), or one by one, (b 3 h w)."""
    inputs = [x.flatten(0, 1)] if norm == "per-group" else x.unbind(1)
    return [part.contiguous(memory_format=layout) for part in inputs]


def _input(key: EmbeddingKey | str, batch: Batch, table: Mapping[EmbeddingKey, Tensor]) -> Tensor:
    if isinstance(key, str):
        return batch[key.removeprefix("batch.")]
    return widen(table[key])


def _watched(plan: Plan) -> dict[str, EmbeddingKey]:
    """Return the embeddings to monitor, those of the sampler's first view group that the online network sees.

    `features` always; `projection` of the first head whose projections are vectors, computed for an objective anyway;
    `target`, the target's projection of the same, and `prediction`, the online network's, if some objective
    reads them.
    """
    group = next(name for name in plan.groups if _heads(plan, "online", name, all_keys=True))
    keys = {"features": EmbeddingKey("online", "features", group)}
    heads = [head for head in _heads(plan, "online", group) if len(plan.heads[head].axes("projection")) == 1]
    if heads:
        best = min(heads, key=lambda head: head not in _heads(plan, "target", group))
        keys["projection"] = EmbeddingKey("online", "projection", group, best)
        optional = {
            "target": EmbeddingKey("target", "projection", group, best),
            "prediction": EmbeddingKey("online", "prediction", group, best),
        }
        keys |= {name: key for name, key in optional.items() if key in plan.rows}
    return keys


def _heads(plan: Plan, network: str, group: str, all_keys: bool = False) -> list[str]:
    """Return the heads that a network runs on a view group; with `all_keys`, also "" for the backbone's own outputs."""
    heads = [key.head for key in plan.rows if (key.network, key.group) == (network, group)]
    return [head for head in dict.fromkeys(heads) if head or all_keys]


def _autocast_type(device: str) -> str:
    """Return the device type for autocast, which does not know the meta device."""
    return "cpu" if device == "meta" else device
