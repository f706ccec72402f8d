"""Match the rows that objectives require with the rows that a recipe's sampler, backbone and heads give."""

from __future__ import annotations

from collections.abc import Mapping

from sslkit.api import Backbone, Objective, ViewSampler
from sslkit.axes import Axis, parse, unify
from sslkit.errors import closest
from sslkit.foreign.isolation import isolated
from sslkit.planning.plan import KINDS, NETWORKS, ConfiguredComponent, EmbeddingKey, HeadPlan
from sslkit.planning.recipe import ObjectiveTable, Recipe
from sslkit.planning.resolver import Resolver
from sslkit.plugins import Component

RowKey = EmbeddingKey | str
"""A row of the embedding table, or a key of the batch: `batch.boxes.scene`, `batch.size`."""
_BATCH: Mapping[str, tuple[Axis, ...]] = {"size": ("b", 2), "index": ("b",)}
"""Key of the batch -> its axes."""
_BATCH_OF_GROUP: Mapping[str, tuple[Axis, ...]] = {"boxes": (4,), "flipped": ()}
"""Key of the batch, one per view group -> its axes after the batch and view axes."""
_HEAD_KINDS = ("projection", "prediction")
_ROWS = (
    "{online|target}.{features|map|tokens|projection|prediction}.{group} (target.prediction does not exist), "
    "batch.{boxes|flipped}.{group} and batch.{size|index}"
)


class RowMatcher:
    """Match the required rows of each objective; problems go to the resolver.

    Args:
        resolver: The resolver that collects the problems.
        recipe: The recipe.
        groups: View group -> number of views, as the sampler gives them.
        backbone: The backbone, built on the meta device.
        heads: Name -> head; None for a head that has problems.
    """

    def __init__(
        self, resolver: Resolver, recipe: Recipe, groups: Mapping[str, int], backbone: Backbone,
        heads: Mapping[str, HeadPlan | None],
    ) -> None:  # fmt: skip
        self.resolver = resolver
        self.recipe = recipe
        self.groups = groups
        self.backbone = backbone
        self.heads = heads

    def match(
        self, objective: ConfiguredComponent, table: ObjectiveTable, key: tuple[str, ...]
    ) -> tuple[dict[str, RowKey], dict[str, int]] | None:
        """Return the row of each parameter of `forward`, and the sizes of the axes that the objective names.

        None if the recipe does not give all of them, for a reason that is among the problems.
        """
        component = objective.component
        rows: dict[str, RowKey] = {}
        bound: dict[str, Axis] = {}
        required = self._required(component.cls, table)
        for parameter, spec in required.items():
            path, _, axes = (part.strip() for part in spec.partition(":"))
            row = self._row(path, table, key)
            actual = self._axes(row, key) if row else None
            if row is None or actual is None:
                continue
            rows[parameter] = row
            if (reason := unify(parse(axes), actual, bound)) and not self._is_faulty(row):
                self.resolver.fault(key, f"{component.id} needs {path} as '{axes}': {reason}")
        self._check_unknown_inputs(component, table, key)
        self._check_repeated_groups(component, table, key)
        if len(rows) < len(required):
            return None
        return rows, {axis: size for axis, size in bound.items() if isinstance(size, int)}

    def _is_faulty(self, row: RowKey) -> bool:
        """Return whether the sizes of a row come from a table with problems."""
        head = [("heads", row.head)] if isinstance(row, EmbeddingKey) and row.head else []
        return any(self.resolver.is_faulty(*key) for key in (("sampler",), ("backbone",), *head))

    def used_head(self, table: ObjectiveTable, rows: Mapping[str, RowKey], key: tuple[str, ...]) -> str:
        """Return the objective's head, or the default if it reads none; an unknown name is a problem in any case."""
        if any(isinstance(row, EmbeddingKey) and row.head for row in rows.values()):
            return table.head
        default = str(ObjectiveTable.model_fields["head"].default)
        if table.head not in (default, *self.recipe.heads):
            known = ", ".join(self.recipe.heads) or "none"
            self.resolver.fault(
                (*key, "head"),
                f"the recipe has no [heads.{table.head}] (it has {known}), and {table.use or key[-1]} reads no head",
                "leave head out",
            )
        return default

    # ------------------------------------------------------------------------------------- required rows

    def _required(self, cls: type[Objective], table: ObjectiveTable) -> dict[str, str]:
        """Return the required rows, and those optional ones whose group the sampler gives or the recipe rebinds."""
        available = {*self.groups, *table.inputs}
        optional = {name: spec for name, spec in cls.optional.items() if _group_of(spec) in available}
        return {**cls.requires, **optional}

    def _row(self, path: str, table: ObjectiveTable, key: tuple[str, ...]) -> RowKey | None:
        """Read the path of a row, and rebind its group as the recipe says; keys of the batch stay strings."""
        parts = path.split(".")
        group = table.inputs.get(parts[-1], parts[-1])
        if len(parts) == 3 and parts[0] in NETWORKS and parts[1] in KINDS and parts[:2] != ["target", "prediction"]:
            return EmbeddingKey(parts[0], parts[1], group, table.head if parts[1] in _HEAD_KINDS else "")
        if len(parts) == 3 and parts[0] == "batch" and parts[1] in _BATCH_OF_GROUP:
            return f"batch.{parts[1]}.{group}"
        if len(parts) == 2 and parts[0] == "batch" and parts[1] in _BATCH:
            return path
        what = f"{table.use} requires '{path}', which is not a row; rows are {_ROWS}"
        self.resolver.fault(key, what, kind="plugin")
        return None

    def _check_unknown_inputs(self, component: Component, table: ObjectiveTable, key: tuple[str, ...]) -> None:
        """Refuse `inputs` that rebind a group which the objective does not read."""
        cls = component.cls
        read = {_group_of(spec) for spec in [*cls.requires.values(), *cls.optional.values()]}
        for group in table.inputs.keys() - read:
            self.resolver.fault(
                (*key, "inputs"),
                f"inputs renames group '{group}', which {component.id} does not read",
                f"it reads {', '.join(sorted(read))}",
            )

    def _check_repeated_groups(self, component: Component, table: ObjectiveTable, key: tuple[str, ...]) -> None:
        """Refuse an optional group that is bound to a required one: views would be compared with themselves."""
        cls = component.cls
        required_groups = {_group_of(spec) for spec in cls.requires.values()}
        required = {table.inputs.get(group, group): group for group in required_groups}
        for group in {_group_of(spec) for spec in cls.optional.values()}:
            bound = table.inputs.get(group, group)
            if bound in required:
                self.resolver.fault(
                    (*key, "inputs"),
                    f"{component.id} reads '{bound}' as '{required[bound]}' and as '{group}': "
                    "its views would be compared with themselves",
                    f"leave {group} out, which is optional, or bind it to another group",
                )

    # ----------------------------------------------------------------------------------------- actual rows

    def _axes(self, row: RowKey, key: tuple[str, ...]) -> tuple[Axis, ...] | None:
        """Return the axes of a row in this recipe; add a problem and return None if the recipe does not give it."""
        if isinstance(row, str) and row.count(".") == 1:
            return _BATCH[row.partition(".")[2]]
        group = row.rpartition(".")[2] if isinstance(row, str) else row.group
        if group not in self.groups:
            self._report_missing_group(row, group, key)
            return None
        front: tuple[Axis, ...] = ("b", self.groups[group])
        if isinstance(row, str):
            return (*front, *_BATCH_OF_GROUP[row.split(".")[1]])
        rest = self._head_axes(row, key) if row.head else self._backbone_axes(row, key)
        return None if rest is None else (*front, *rest)

    def _report_missing_group(self, row: RowKey, group: str, key: tuple[str, ...]) -> None:
        """Add one problem per objective and group, however many rows of the group the objective reads."""
        if self.resolver.is_faulty("sampler"):
            return
        lacks = f"gives no view group '{group}'"
        if self._is_reported(key, lacks):
            return
        actual = ", ".join(f"{name}: {count}" for name, count in self.groups.items())
        samplers = self.resolver.plugins.components["sampler"]
        suitable = [id_ for id_, sampler in samplers.items() if group in _default_groups(sampler)]
        instead = [f'[sampler] use = "{id_}"' for id_ in suitable]
        instead += [f'inputs = {{ {group} = "{name}" }} in [{".".join(key)}]' for name in self.groups]
        self.resolver.fault(
            key,
            f"it needs {row}, but sampler '{self.recipe.sampler.use}' {lacks} (it gives {actual})",
            "write " + ", or ".join(instead),
        )

    def _backbone_axes(self, row: EmbeddingKey, key: tuple[str, ...]) -> tuple[Axis, ...] | None:
        """Return the axes of a backbone's row after the batch and view axes."""
        gives = self.backbone.gives
        if row.kind not in gives and self.resolver.is_faulty("backbone"):
            return None
        if row.kind not in gives:
            self.resolver.fault(
                key,
                f"it needs {row}, but backbone '{self.recipe.backbone.use}' gives only {', '.join(gives)}",
                "choose another [backbone]",
            )
            return None
        return tuple(self.backbone.dim if axis == "f" else axis for axis in parse(gives[row.kind]))

    def _head_axes(self, row: EmbeddingKey, key: tuple[str, ...]) -> tuple[Axis, ...] | None:
        """Return the axes of a head's row after the batch and view axes."""
        name, example = row.head, self.resolver.example("head")
        if self.heads.get(name) is None and self.resolver.is_faulty("heads", name):
            return None
        if name not in self.heads:
            known, lacks = ", ".join(self.heads) or "none", f"the recipe has no [heads.{name}]"
            if not self._is_reported((*key, "head"), lacks):
                self.resolver.fault(
                    (*key, "head"),
                    f"it needs {row} of head '{name}', but {lacks} (it has {known}){closest(name, self.heads)}",
                    f'add [heads.{name}] projector = {example}, or write head = "..." in [{".".join(key)}]',
                )
            return None
        head = self.heads[name]
        if head is None:
            return None
        if row.kind == "prediction" and head.predictor is None and self.resolver.is_faulty("heads", name):
            return None
        if row.kind == "prediction" and head.predictor is None:
            lacks = f"[heads.{name}] has no predictor"
            if not self._is_reported(key, lacks):
                instead = f"add predictor = {example} to [heads.{name}]"
                self.resolver.fault(key, f"it needs {row}, but {lacks}", instead, also=[("heads", name)])
            return None
        return head.axes(row.kind)

    def _is_reported(self, key: tuple[str, ...], words: str) -> bool:
        """Return whether a problem of an objective is known: one for each cause, however many rows it concerns."""
        return any(problem.key == key and words in problem.what for problem in self.resolver.problems)


def _group_of(spec: str) -> str:
    """Return the view group of a required row such as `online.prediction.scene: b v d`."""
    return spec.partition(":")[0].strip().rpartition(".")[2]


def _default_groups(component: Component) -> Mapping[str, int]:
    """Return the view groups that a sampler gives with its default options; none if some options are required."""
    with isolated(lambda error: None):  # noqa: ARG005 - a third party's constructor may raise anything
        sampler: ViewSampler = component.cls()
        return dict(sampler.groups)
    return {}
