"""The online and target networks, and one training step's forward pass as one module.

Everything that needs gradients is inside `StepModule.forward`, so that DDP and FSDP see all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sslkit.api import Terms
from sslkit.networks import monitors
from sslkit.networks.ema import ema_update
from sslkit.networks.sharding import is_cut, local
from sslkit.nn import widen
from sslkit.planning.plan import EmbeddingKey, HeadPlan, ObjectivePlan, Plan
from sslkit.plugins import Component, blamed
from sslkit.seeds import torch_seeded

Batch = Mapping[str, Tensor]
"""`pixels.{group}.{network}` (b v 3 h w), `boxes.{group}` (b v 4), `flipped.{group}` (b v), `size` (b 2), `index`."""


class Network(nn.Module):
    """A backbone with its named projectors and predictors."""

    def __init__(self, backbone: nn.Module, made: Component, heads: Mapping[str, HeadPlan], seed: int) -> None:
        super().__init__()
        self.made, self.heads = made, heads
        self.backbone = backbone
        self.taken = {name: head.taken for name, head in heads.items()}
        self.projectors = nn.ModuleDict()
        self.predictors = nn.ModuleDict()
        for name, head in heads.items():
            with torch_seeded(seed, "heads", name, "projector"):
                self.projectors[name] = head.projector.make({"d": head.in_dim})
            if head.predicts and head.predictor:
                with torch_seeded(seed, "heads", name, "predictor"):
                    self.predictors[name] = head.predictor.make({"d": head.dim})

    def forward(self, x: Tensor, wanted: Sequence[EmbeddingKey]) -> list[Tensor]:
        """Return the wanted rows of images (n 3 h w), each (n ...)."""
        with blamed(self.made):
            given = self.backbone(x)
        heads = dict.fromkeys(row.head for row in wanted if row.head)  # each once: batch norm counts its passes
        projected = {head: self._project(head, given) for head in heads}
        return [self._row(row, given, projected) for row in wanted]

    def _project(self, head: str, given: Mapping[str, Tensor]) -> Tensor:
        with blamed(self.heads[head].projector.component):
            return self.projectors[head](given[self.taken[head]])  # type: ignore[no-any-return]

    def _row(self, row: EmbeddingKey, given: Mapping[str, Tensor], projected: Mapping[str, Tensor]) -> Tensor:
        if row.kind == "prediction":
            predictor = self.heads[row.head].predictor
            assert predictor
            with blamed(predictor.component):
                return self.predictors[row.head](projected[row.head])  # type: ignore[no-any-return]
        return projected[row.head] if row.head else given[row.kind]


class StepOutput(NamedTuple):
    """What a forward pass of a step gives.

    Attributes:
        loss: Scalar, the weighted sum of the terms.
        terms: "objective.term" -> scalar, unweighted.
        monitors: Name -> scalar.
        rows: "features" and, where there is one, "projection" -> the first watched view's rows (b d), detached.
        measured: The conflict map, where it was asked for: name -> value, the same in all processes but for times.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    monitors: dict[str, Tensor]
    rows: dict[str, Tensor]
    measured: dict[str, float]


class StepModule(nn.Module):
    """Online network, target network where one is read, and the objectives."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        seed = plan.recipe.seed
        self.watched = _watched(plan)
        self.rows = [*plan.rows, *(row for row in self.watched.values() if row not in plan.rows)]
        self.plans = plan.objectives
        self.norms = {group: plan.recipe.forward.norm_of(group) for group in plan.groups}
        self.pixels = {
            (row.group, row.network): ".".join(("pixels", *plan.pixels(row.group, row.network))) for row in self.rows
        }
        with torch_seeded(seed, "backbone"):
            backbone = plan.backbone.make()
        self.online = Network(backbone, plan.backbone.component, plan.heads, seed)
        self.target = _target(self.online, plan) if plan.has("target") else None
        self.objectives = nn.ModuleDict({item.name: _objective(item, seed) for item in plan.objectives})
        own = (self.online.projectors, self.online.predictors, self.objectives)
        self._told: list[Any] = [part for parts in own for part in parts.values()]
        self.gather: Callable[[Tensor], Tensor] | None = None
        """Joins a tensor's rows (b ...) over all processes, with gradients; None where there is one process."""
        self.mean: Callable[[Tensor], Tensor] | None = None
        """Averages a tensor over all processes, without gradients; None where there is one process."""
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None
        self.scale = 2.0**12 if plan.recipe.precision == "16-mixed" else 1.0
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch, measure: bool = False) -> StepOutput:
        """Run every network on every view group that is read, then every objective in float32, or in float64.

        Args:
            batch: Views and what is known of them.
            measure: Also take the conflict map, for which the device is waited for.
        """
        images: dict[str, list[Tensor]] = {}
        table = self._embed(batch, "online", images)
        with torch.no_grad():
            table.update(self._embed(batch, "target", images))
        with torch.autocast(_autocast_type(batch["index"].device.type), enabled=False):
            return self._objectives(batch, table, measure)

    def _embed(self, batch: Batch, network: str, images: dict[str, list[Tensor]]) -> dict[EmbeddingKey, Tensor]:
        """Return every row that is read of a network; `images` keeps what both networks see, laid out once."""
        table: dict[EmbeddingKey, Tensor] = {}
        for group, norm in self.norms.items():
            wanted = [row for row in self.rows if (row.network, row.group) == (network, group)]
            if wanted:
                key = self.pixels[group, network]
                if key not in images:
                    images[key] = _images(batch[key], norm)
                table.update(zip(wanted, self._pass(network, images[key], wanted, batch[key].shape[1]), strict=True))
        return table

    def _pass(self, network: str, images: Sequence[Tensor], wanted: Sequence[EmbeddingKey], v: int) -> list[Tensor]:
        """Return the wanted rows of v views, each (b v ...); all views in one pass, or as many passes as views."""
        module = self.online if network == "online" else self.target
        assert module is not None
        passes = [module(x, wanted) for x in images]
        if len(passes) == 1:
            return [row.unflatten(0, (-1, v)) for row in passes[0]]
        return [torch.stack(rows, dim=1) for rows in zip(*passes, strict=True)]

    def _objectives(self, batch: Batch, table: Mapping[EmbeddingKey, Tensor], measure: bool) -> StepOutput:
        terms: dict[str, Tensor] = {}
        rows = {name: table[row].detach().float() for name, row in self.watched.items()}
        target, prediction = rows.pop("target", None), rows.pop("prediction", None)
        told = monitors.every_step(rows.get("projection", rows["features"]), target, prediction)
        parts: dict[str, monitors.Part] = {}
        timer = monitors.Timer(batch["index"].device, on=measure)
        for item in self.plans:
            inputs = self._inputs(item, batch, table)
            with blamed(item.made.component):
                losses = _terms(self.objectives[item.name](**inputs))
            loss = item.weight * torch.stack(list(losses.terms.values())).sum()
            parts[item.name] = monitors.Part(loss, timer.lap())
            terms.update({f"{item.name}.{term}": value.detach() for term, value in losses.terms.items()})
            told.update({f"{item.name}.{name}": value.detach() for name, value in losses.monitors.items()})
        loss = torch.stack([part.loss for part in parts.values()]).sum()
        shared = [*self.online.backbone.parameters()] if measure else []
        measured = monitors.conflict(parts, shared, self.scale, self.mean) if measure else {}
        return StepOutput(loss, terms, told, {name: value[:, 0] for name, value in rows.items()}, measured)

    def _inputs(
        self, item: ObjectivePlan, batch: Batch, table: Mapping[EmbeddingKey, Tensor]
    ) -> dict[str, Tensor | None]:
        """Return the parameters of an objective's `forward`."""
        rows = {name: _input(row, batch, table) for name, row in item.rows.items()}
        cls = item.made.component.cls
        if self.gather is not None and cls.couples_batch:
            rows = {name: self.gather(row) for name, row in rows.items()}
        return {**dict.fromkeys(cls.optional), **rows}

    def compile_backbones(self) -> None:
        """Let torch compile what both networks spend their time in, when it is first used."""
        from torch._functorch import config

        config.donated_buffer = False  # the conflict map goes backward more than once
        for network in (self.online, self.target):
            if network is not None:
                network.backbone.compile()

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target's parameters towards the online ones; its batch norm keeps its own statistics."""
        if self.target is not None:
            ema_update(*self._followed(self.target), momentum)

    def _followed(self, target: Network) -> tuple[list[Tensor], list[Tensor]]:
        """Return the target's parameters and the online ones that they follow; looked up once."""
        if self._pairs is not None:
            return self._pairs
        online, named = dict(self.online.named_parameters()), list(target.named_parameters())
        own, followed = [held for _, held in named], [online[name] for name, _ in named]
        if any(map(is_cut, own)):  # what a process holds of them may lie elsewhere in the next step
            return [*map(local, own)], [*map(local, followed)]
        self._pairs = list[Tensor](own), list[Tensor](followed)
        return self._pairs

    def after_step(self, step: int, epoch: float) -> None:
        """Let objectives and heads with state of their own update it."""
        for part in self._told:
            part.after_step(step, epoch)


def _target(online: Network, plan: Plan) -> Network:
    """Copy the online network with the projectors that are read of the target, without gradients, in train mode."""
    read = {row.head for row in plan.rows if row.network == "target"}
    target = copy.deepcopy(online)
    target.predictors = nn.ModuleDict()
    target.projectors = nn.ModuleDict({name: head for name, head in target.projectors.items() if name in read})
    return target.requires_grad_(False)


def _objective(item: ObjectivePlan, seed: int) -> nn.Module:
    with torch_seeded(seed, "objectives", item.name):
        objective: nn.Module = item.made.make(dict(item.dims))
    return objective


def _images(x: Tensor, norm: str) -> list[Tensor]:
    """Return what each pass takes of views (b v 3 h w): all together, (b v) 3 h w, or one at a time, (b 3 h w)."""
    parts = [x.flatten(0, 1)] if norm == "per-group" else x.unbind(1)
    return [part.contiguous(memory_format=torch.channels_last) for part in parts]


def _input(row: EmbeddingKey | str, batch: Batch, table: Mapping[EmbeddingKey, Tensor]) -> Tensor:
    if isinstance(row, str):
        return batch[row.removeprefix("batch.")]
    return widen(table[row])


def _terms(returned: Tensor | Mapping[str, Tensor] | Terms) -> Terms:
    if isinstance(returned, Terms):
        return returned
    return Terms({"loss": returned} if isinstance(returned, Tensor) else returned)


def _watched(plan: Plan) -> dict[str, EmbeddingKey]:
    """Return the rows that are watched: of the first view group (in the sampler's order) that the online network sees.

    `features` always; `projection` of the first head that is read there as vectors, computed for it anyway; `target`,
    the target's projection of the same, and `prediction`, the online network's, where some objective reads them.
    """
    group = next(name for name in plan.groups if _heads(plan, "online", name, any_row=True))
    rows = {"features": EmbeddingKey("online", "features", group)}
    heads = [head for head in _heads(plan, "online", group) if len(plan.heads[head].axes("projection")) == 1]
    if heads:
        best = min(heads, key=lambda head: head not in _heads(plan, "target", group))
        rows["projection"] = EmbeddingKey("online", "projection", group, best)
        read = {
            "target": EmbeddingKey("target", "projection", group, best),
            "prediction": EmbeddingKey("online", "prediction", group, best),
        }
        rows |= {name: row for name, row in read.items() if row in plan.rows}
    return rows


def _heads(plan: Plan, network: str, group: str, any_row: bool = False) -> list[str]:
    """Return the heads through which a network's view group goes, "" among them where asked for any row at all."""
    seen = [row.head for row in plan.rows if (row.network, row.group) == (network, group)]
    return [head for head in dict.fromkeys(seen) if head or any_row]


def _autocast_type(device: str) -> str:
    """Return the device type that autocast is asked about; there is none for shapes without memory."""
    return "cpu" if device == "meta" else device
