"""A plan: what a recipe builds and how it is wired; made by `sslkit.planning.planner`.

What nobody requires is not in it: no target network without an objective that reads it, no crops of a view group
that no objective reads, no predictor without a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sslkit.axes import Axis, parse
from sslkit.planning.recipe import ProbeTable, Recipe, View
from sslkit.plugins import Component, Owner

NETWORKS = ("online", "target")
KINDS = ("features", "map", "tokens", "projection", "prediction")


@dataclass(frozen=True)
class EmbeddingKey:
    """One row of the embedding table: `online.prediction.scene`, with the head where it comes from one."""

    network: str
    kind: str
    group: str
    head: str = ""

    def __str__(self) -> str:
        return f"{self.network}.{self.kind}.{self.group}"


@dataclass(frozen=True)
class ConfiguredComponent:
    """A component with its validated options: `make()` builds a new one."""

    component: Component
    options: Mapping[str, Any]

    def make(self, *wiring: Any) -> Any:
        """Build the component."""
        return self.component.cls(*wiring, **self.options)

    def table(self, **core: Any) -> dict[str, Any]:
        """Write it as a recipe table with every default filled in."""
        return {"use": self.component.id, **core, **self.options}


@dataclass(frozen=True)
class HeadPlan:
    """A projector and predictor with the sizes that they work on."""

    projector: ConfiguredComponent
    predictor: ConfiguredComponent | None
    in_dim: int
    dim: int
    out_dim: int
    predicts: bool = False

    @property
    def taken(self) -> str:
        """The backbone row that the projector reads."""
        return str(self.projector.component.cls.takes)

    def axes(self, kind: str) -> tuple[Axis, ...]:
        """Return the axes of a projection or prediction behind those of the views."""
        made, size = (
            (self.predictor, self.out_dim) if kind == "prediction" and self.predictor else (self.projector, self.dim)
        )
        return tuple(size if axis == "d" else axis for axis in parse(made.component.cls.gives))


@dataclass(frozen=True)
class ObjectivePlan:
    """An objective, wired: parameter of `forward` -> row, or key of the batch."""

    name: str
    made: ConfiguredComponent
    weight: float
    head: str
    inputs: Mapping[str, str]
    rows: Mapping[str, EmbeddingKey | str]
    dims: Mapping[str, int]


@dataclass(frozen=True)
class ProbePlan:
    """A probe and the images that it is measured on."""

    made: ConfiguredComponent
    source: ConfiguredComponent
    test_source: ConfiguredComponent | None
    table: ProbeTable

    @property
    def shared(self) -> str:
        """All that its features depend on, besides the backbone: probes for which it is equal share them."""
        sources = [(made.component.id, made.options) for made in (self.source, self.test_source) if made]
        return repr((sources, self.table.model_dump(exclude={"use", "source", "test_source", *self.table.options})))

    def resolved(self) -> dict[str, Any]:
        """Return its table with every default."""
        names = {"use", "source", "test_source", *self.table.options}
        core = self.table.model_dump(exclude=names, exclude_none=True)
        sources = {"source": self.source, "test_source": self.test_source}
        return self.made.table(**{key: made.table() for key, made in sources.items() if made}, **core)


@dataclass(frozen=True)
class Measurement:
    """Probes and the backbone that they are for; what `sslkit probe` builds.

    Attributes:
        view: Says how pixels are normalised.
    """

    seed: int
    backbone: ConfiguredComponent
    probes: Mapping[str, ProbePlan]
    view: View


@dataclass
class Plan:
    """Everything that a run builds.

    Attributes:
        groups: View group -> number of views, of those that are cut.
        views: (group, network) -> one `View` per view; networks that see the same pixels share "online".
        rows: The rows of the embedding table that some objective reads.
        notes: What is worth saying but no fault.
    """

    recipe: Recipe
    source: ConfiguredComponent
    proposer: ConfiguredComponent | None
    sampler: ConfiguredComponent
    backbone: ConfiguredComponent
    optimizer: Mapping[str, Any]
    heads: dict[str, HeadPlan] = field(default_factory=dict)
    objectives: list[ObjectivePlan] = field(default_factory=list)
    probes: dict[str, ProbePlan] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    views: dict[tuple[str, str], list[View]] = field(default_factory=dict)
    rows: list[EmbeddingKey] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def measurement(self) -> Measurement:
        """The probes and what they need; pixels are normalised as in training."""
        view = next((views[0] for views in self.views.values()), View())
        return Measurement(self.recipe.seed, self.backbone, self.probes, view)

    def has(self, network: str) -> bool:
        """Say whether any objective reads this network."""
        return any(row.network == network for row in self.rows)

    def pixels(self, group: str, network: str) -> tuple[str, str]:
        """Return the key of `views` whose pixels a network sees of a group."""
        return (group, network) if (group, network) in self.views else (group, "online")

    def resolved(self) -> dict[str, Any]:
        """Return the recipe with full ids, every default and the plugins' versions: a recipe again."""
        return _resolved(self)


def _resolved(plan: Plan) -> dict[str, Any]:
    recipe = plan.recipe
    values = recipe.model_dump(exclude_none=True)
    values["source"] = plan.source.table()
    values["sampler"] = plan.sampler.table()
    values["backbone"] = plan.backbone.table()
    if plan.proposer and recipe.proposals:
        values["proposals"] = plan.proposer.table(when_missing=recipe.proposals.when_missing)
    else:
        values.pop("proposals", None)
    values["optimizer"] |= plan.optimizer
    values["heads"] = {name: _head_table(head) for name, head in plan.heads.items()}
    values["objectives"] = {
        item.name: item.made.table(weight=item.weight, head=item.head, inputs=dict(item.inputs))
        for item in plan.objectives
    }
    values["augment"] = {group: [view.model_dump() for view in recipe.augment[group]] for group in plan.groups}
    values["probes"] = {name: item.resolved() for name, item in plan.probes.items()}
    values["plugins"] = {owner.plugin: owner.version for owner in _owners(plan)}
    plain = _plain(values)
    assert isinstance(plain, dict)
    return plain


def _head_table(head: HeadPlan) -> dict[str, Any]:
    table = {"projector": head.projector.table()}
    if head.predictor and head.predicts:
        table["predictor"] = head.predictor.table()
    return table


def _owners(plan: Plan) -> list[Owner]:
    made = [plan.source, plan.proposer, plan.sampler, plan.backbone, *(item.made for item in plan.objectives)]
    made += [part for head in plan.heads.values() for part in (head.projector, head.predictor)]
    made += [part for item in plan.probes.values() for part in (item.made, item.source, item.test_source)]
    owners = {item.component.owner.plugin: item.component.owner for item in made if item}
    return [owners[name] for name in sorted(owners)]


def _plain(value: Any) -> Any:
    """Turn options into what TOML holds: no None (a missing key says it), no tuples, no paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)
