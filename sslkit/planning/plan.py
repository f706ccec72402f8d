"""Plans: what a recipe builds and how its parts are wired. `sslkit.planning.planner` makes them.

A plan holds only what some objective requires: no target network without an objective that reads it, no crops of a
view group that no objective reads, no predictor without an objective that reads predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sslkit.axes import Axis, parse
from sslkit.contracts.blame import blamed
from sslkit.foreign import lengths
from sslkit.planning.recipe import ProbeTable, Recipe, View
from sslkit.planning.recipe_file import RecipeFile
from sslkit.plugins import Component, Owner

NETWORKS = ("online", "target")
KINDS = ("features", "map", "tokens", "projection", "prediction")


@dataclass(frozen=True)
class EmbeddingKey:
    """The name of a row of the embedding table, such as `online.prediction.scene`.

    Attributes:
        head: The head that a projection or prediction comes from; empty for the backbone's own rows.
    """

    network: str
    kind: str
    group: str
    head: str = ""

    def __str__(self) -> str:
        return f"{self.network}.{self.kind}.{self.group}"


@dataclass(frozen=True)
class ConfiguredComponent:
    """A component with its validated options; `make()` builds a new instance."""

    component: Component
    options: Mapping[str, Any]

    def make(self, *wiring: Any) -> Any:
        """Build an instance; `wiring` goes to the parameters left of `*`.

        Raises:
            PluginError: The constructor failed.
        """
        with blamed(self.component, "__init__"):
            return self.component.cls(*wiring, **self.options)

    def table(self, **core: Any) -> dict[str, Any]:
        """Return its recipe table, with every default filled in."""
        return {"use": self.component.id, **core, **self.options}


@dataclass(frozen=True)
class HeadPlan:
    """A projector and its predictor, with their sizes.

    Attributes:
        in_dim: Size of the features that the projector takes.
        dim: Size of a projection.
        out_dim: Size of a prediction, or of a projection if there is no predictor.
        predicts: Whether an objective reads predictions, so that the predictor is built.
    """

    projector: ConfiguredComponent
    predictor: ConfiguredComponent | None
    in_dim: int
    dim: int
    out_dim: int
    predicts: bool = False

    @property
    def input_kind(self) -> str:
        """The backbone row that the projector reads: features, map or tokens."""
        return str(self.projector.component.cls.takes)

    def axes(self, kind: str) -> tuple[Axis, ...]:
        """Return the axes of a projection or prediction, without those of the batch and the views."""
        head, size = self.projector, self.dim
        if kind == "prediction" and self.predictor:
            head, size = self.predictor, self.out_dim
        return tuple(size if axis == "d" else axis for axis in parse(head.component.cls.gives))


@dataclass(frozen=True)
class ObjectivePlan:
    """An objective and its wiring.

    Attributes:
        name: Name of the objective's table in the recipe.
        inputs: View groups that the recipe rebinds: the objective's name -> the sampler's.
        rows: Parameter of `forward` -> row of the embedding table, or key of the batch.
        dims: Axis -> size, for the objective's constructor.
    """

    name: str
    objective: ConfiguredComponent
    weight: float
    head: str
    inputs: Mapping[str, str]
    rows: Mapping[str, EmbeddingKey | str]
    dims: Mapping[str, int]


@dataclass(frozen=True)
class ProbePlan:
    """A probe and the images that it measures on.

    Attributes:
        test_source: Source of the test images; None takes a share of `source`.
    """

    probe: ConfiguredComponent
    source: ConfiguredComponent
    test_source: ConfiguredComponent | None
    table: ProbeTable

    @property
    def shared(self) -> str:
        """A key for all that the crops and their split depend on; probes with equal keys read the crops once."""
        sources = [(source.component.id, source.options) for source in (self.source, self.test_source) if source]
        keys = {"crops", "size", "fit", "min_side", "loosen", "limit", "test_share"}
        return repr((sources, self.table.model_dump(include=keys)))

    def resolved(self) -> dict[str, Any]:
        """Return its recipe table, with every default filled in."""
        names = {"use", "source", "test_source", *self.table.options}
        if self.table.pool == "mean":  # as before there was such a key, so that older runs have equal recipes
            names.add("pool")
        core = self.table.model_dump(exclude=names, exclude_none=True)
        sources = {"source": self.source, "test_source": self.test_source}
        return self.probe.table(**{key: source.table() for key, source in sources.items() if source}, **core)


@dataclass(frozen=True)
class ProbingPlan:
    """Probes and the backbone that they measure: what `sslkit probe` builds.

    Attributes:
        view: Mean and standard deviation that pixels are normalised with.
    """

    seed: int
    backbone: ConfiguredComponent
    probes: Mapping[str, ProbePlan]
    view: View


@dataclass
class Plan:
    """Everything that a run builds.

    Attributes:
        groups: View group -> number of views, for the groups that some objective reads.
        views: (group, network) -> one `View` per view; networks that see the same pixels share "online".
        single_cell: View group -> size of its views, where the backbone's last map is 1 x 1.
        rows: The rows of the embedding table that some objective reads.
        notes: Remarks for the user that are not problems.
        recipe_file: The recipe as it was written, if the plan was made from a file.
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
    single_cell: dict[str, int] = field(default_factory=dict)
    rows: list[EmbeddingKey] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recipe_file: RecipeFile | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        weights = {item.name: f"{item.weight:g} x " if item.weight != 1 else "" for item in self.objectives}
        objectives = " + ".join(weight + name for name, weight in weights.items())
        views = ", ".join(f"{count} {group}" for group, count in self.groups.items())
        return f"Plan({self.name}: {objectives}; {views} views; {self.backbone.component.id}; {self.recipe.length})"

    @property
    def name(self) -> str:
        """The recipe's name; "recipe" where the plan was not made from a file."""
        return self.recipe_file.name if self.recipe_file else "recipe"

    @property
    def probing(self) -> ProbingPlan:
        """The probes and what they need. Pixels are normalised as in training."""
        view = next((views[0] for views in self.views.values()), View())
        return ProbingPlan(self.recipe.seed, self.backbone, self.probes, view)

    def has(self, network: str) -> bool:
        """Return whether any objective reads this network."""
        return any(row.network == network for row in self.rows)

    def is_seen(self, group: str) -> bool:
        """Return whether a network sees the views of a group; an objective may read their boxes alone."""
        return any(row.group == group for row in self.rows)

    def pixels(self, group: str, network: str) -> tuple[str, str]:
        """Return the key of `views` for the pixels of a group that a network sees."""
        return (group, network) if (group, network) in self.views else (group, "online")

    def summary(self) -> str:
        """Describe in a few lines what is built and how it is trained."""
        return "\n".join(_summary(self))

    def resolved(self) -> dict[str, Any]:
        """Return the recipe with full ids, every default and the plugins' versions: a recipe again."""
        return _resolved(self)


def _summary(plan: Plan) -> list[str]:
    recipe, optimizer = plan.recipe, plan.recipe.optimizer
    views = [f"{'.'.join(key)} {len(items)} x {items[0].size} px" for key, items in plan.views.items()]
    networks = [name for name in NETWORKS if plan.has(name)]
    rows = [
        ("training", f"{recipe.length}, batch size {recipe.batch_size}, {optimizer.use}, {recipe.precision}"),
        ("learning rate", f"{optimizer.lr(recipe.batch_size):g}"),
        ("data", f"{plan.source.component.id}, {plan.sampler.component.id}"),
        ("views", ", ".join(views)),
        ("networks", f"{' and '.join(networks)}, {plan.backbone.component.id}"),
    ]
    for item in plan.objectives:
        inputs = ", ".join(map(str, item.rows.values()))
        rows.append(("objective", f"{item.weight:g} x {item.objective.component.id}({inputs})"))
    rows += [("probes", ", ".join(plan.probes))] if plan.probes else []
    rows += [("note", note) for note in plan.notes]
    return [f"{plan.name}: {recipe.summary}", *(f"  {name:<14} {text}" for name, text in rows)]


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
        item.name: item.objective.table(weight=item.weight, head=item.head, inputs=dict(item.inputs))
        for item in plan.objectives
    }
    seen = [group for group in plan.groups if plan.is_seen(group)]
    values["augment"] = {group: [view.model_dump() for view in recipe.augment[group]] for group in seen}
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
    components = [plan.source, plan.proposer, plan.sampler, plan.backbone]
    components += [item.objective for item in plan.objectives]
    components += [part for head in plan.heads.values() for part in (head.projector, head.predictor)]
    components += [part for item in plan.probes.values() for part in (item.probe, item.source, item.test_source)]
    owners = {item.component.owner.plugin: item.component.owner for item in components if item}
    return [owners[name] for name in sorted(owners)]


def _plain(value: Any) -> Any:
    """Turn options into TOML values: without None (the key is left out), tuples and paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in lengths.written_once(value).items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)
