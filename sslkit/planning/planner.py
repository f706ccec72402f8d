"""From a recipe to its plan, and everything that is wrong with it, before a tensor is made.

Components are made once on torch's meta device (shapes without memory), so that their own words about impossible
options are heard here and not in the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sslkit.api import Backbone, Head, ViewSampler
from sslkit.axes import Axis, parse, unify
from sslkit.errors import Problem, closest
from sslkit.optim import OPTIMIZERS
from sslkit.planning.plan import KINDS, NETWORKS, ConfiguredComponent, EmbeddingKey, HeadPlan, ObjectivePlan, Plan
from sslkit.planning.probes import wire_probe
from sslkit.planning.recipe import HeadTable, ObjectiveTable, Recipe, View
from sslkit.planning.resolver import Resolver
from sslkit.plugins import Component, Plugins

BATCH: Mapping[str, tuple[Axis, ...]] = {"size": ("b", 2), "index": ("b",)}
_ROWS = (
    "{online|target}.{features|map|tokens|projection|prediction}.{group} (there is no target.prediction), "
    "batch.{boxes|flipped}.{group} and batch.{size|index}"
)
BATCH_OF_GROUP: Mapping[str, tuple[Axis, ...]] = {"boxes": (4,), "flipped": ()}


def make_plan(recipe: Recipe, plugins: Plugins) -> tuple[Plan | None, list[Problem]]:
    """Wire a recipe; return the plan (None when there are problems) and every problem."""
    maker = Planner(recipe, plugins)
    plan = maker.plan()
    return (None if maker.problems else plan), maker.problems


class Planner(Resolver):
    """Collects problems while the plan grows; each step goes as far as it can."""

    def __init__(self, recipe: Recipe, plugins: Plugins) -> None:
        super().__init__(plugins)
        self.recipe = recipe

    def plan(self) -> Plan | None:
        recipe = self.recipe
        source = self.choose("source", recipe.source, ("source",))
        proposer = self.choose("proposer", recipe.proposals, ("proposals",)) if recipe.proposals else None
        sampler = self.choose("sampler", recipe.sampler, ("sampler",))
        backbone = self.choose("backbone", recipe.backbone, ("backbone",))
        made_sampler: ViewSampler | None = self.build(sampler, ("sampler",))
        made_backbone: Backbone | None = self.build(backbone, ("backbone",))
        heads = {name: self.head(name, table, made_backbone) for name, table in recipe.heads.items()}
        groups = dict(made_sampler.groups) if made_sampler else None
        objectives = [
            self.objective(name, table, groups, made_backbone, heads) for name, table in recipe.objectives.items()
        ]
        probes = {name: wire_probe(self, name, table, source, made_backbone) for name, table in recipe.probes.items()}
        optimizer = self.optimizer()
        self.batches()
        self.needs_proposals(made_sampler)
        if source is None or sampler is None or backbone is None or groups is None:
            return None
        plan = Plan(recipe, source, proposer, sampler, backbone, optimizer)
        plan.probes = {name: item for name, item in probes.items() if item}
        plan.objectives = [item for item in objectives if item]
        plan.heads = {name: head for name, head in heads.items() if head}
        self.prune(plan, groups)
        self.augment(plan)
        self.rehearse(plan, made_backbone)
        self.remark(plan, made_sampler)
        return plan

    # ----------------------------------------------------------------------------------------- components

    def optimizer(self) -> dict[str, Any]:
        table, key = self.recipe.optimizer, ("optimizer",)
        if table.use not in OPTIMIZERS:
            hint = closest(table.use, OPTIMIZERS) or f"; known: {', '.join(OPTIMIZERS)}"
            self.fault((*key, "use"), f"there is no optimizer '{table.use}'{hint}")
            return {}
        return self.options(OPTIMIZERS[table.use], table, key, f"optimizer '{table.use}'") or {}

    def head(self, name: str, table: HeadTable, backbone: Backbone | None) -> HeadPlan | None:
        key = ("heads", name)
        projector = self.choose("head", table.projector, (*key, "projector"))
        predictor = self.choose("head", table.predictor, (*key, "predictor")) if table.predictor else None
        if backbone is None or projector is None:
            return None
        takes = projector.component.cls.takes
        if takes not in backbone.gives:
            self.fault(
                (*key, "projector"),
                f"{projector.component.id} projects '{takes}', which backbone {backbone.name} does not give",
                f"it gives: {', '.join(backbone.gives)}",
            )
            return None
        built: Head | None = self.build(projector, (*key, "projector"), {"d": backbone.dim})
        if built is None:
            return None
        predicted: Head | None = self.build(predictor, (*key, "predictor"), {"d": built.out_dim})
        if predictor and predictor.component.cls.gives != projector.component.cls.gives:
            self.fault(
                (*key, "predictor"),
                f"{predictor.component.id} works on '{predictor.component.cls.gives}', but "
                f"{projector.component.id} gives '{projector.component.cls.gives}'",
                "choose a predictor for what the projector gives",
            )
        out = predicted.out_dim if predicted else built.out_dim
        return HeadPlan(projector, predictor, backbone.dim, built.out_dim, out)

    # ----------------------------------------------------------------------------------------- objectives

    def objective(
        self, name: str, table: ObjectiveTable, groups: Mapping[str, int] | None,
        backbone: Backbone | None, heads: Mapping[str, HeadPlan | None],
    ) -> ObjectivePlan | None:  # fmt: skip
        key = ("objectives", name)
        made = self.choose("objective", table, key)
        if made is None or groups is None or backbone is None:
            return None
        before = len(self.problems)
        bound: dict[str, Axis] = {}
        rows: dict[str, EmbeddingKey | str] = {}
        for parameter, spec in self.wanted(made, table, groups).items():
            path, _, axes = spec.partition(":")
            row = self.row(path.strip(), table, key)
            given = self.given(row, groups, backbone, heads, key) if row else None
            if row is None or given is None:
                continue
            rows[parameter] = row
            if reason := unify(parse(axes), given, bound):
                self.fault(key, f"{made.component.id} needs {path.strip()} as '{axes.strip()}': {reason}")
        self.unused_inputs(table, made, key)
        self.doubled_inputs(table, made, key)
        if len(self.problems) > before:
            return None
        dims = {axis: size for axis, size in bound.items() if isinstance(size, int)}
        if made.component.cls.couples_batch:
            dims["b"] = self.recipe.batch_size // self.recipe.accumulate
        if self.build(made, key, dims) is None:
            return None
        return ObjectivePlan(name, made, table.weight, self.used_head(table, rows, key), table.inputs, rows, dims)

    def wanted(self, made: ConfiguredComponent, table: ObjectiveTable, groups: Mapping[str, int]) -> dict[str, str]:
        """Return what an objective requires, and what it takes where the sampler gives its group or the recipe asks."""
        cls = made.component.cls
        taken = {}
        for parameter, spec in cls.optional.items():
            group = _group_of(spec)
            if group in table.inputs or group in groups:
                taken[parameter] = spec
        return {**cls.requires, **taken}

    def row(self, path: str, table: ObjectiveTable, key: tuple[str, ...]) -> EmbeddingKey | str | None:
        """Read a row's path, with the recipe's groups put in; the batch's own keys stay strings."""
        parts = path.split(".")
        group = table.inputs.get(parts[-1], parts[-1])
        if len(parts) == 3 and parts[0] in NETWORKS and parts[1] in KINDS and parts[:2] != ["target", "prediction"]:
            return EmbeddingKey(parts[0], parts[1], group, table.head if parts[1] in KINDS[3:] else "")
        if len(parts) == 3 and parts[0] == "batch" and parts[1] in BATCH_OF_GROUP:
            return f"batch.{parts[1]}.{group}"
        if len(parts) == 2 and parts[0] == "batch" and parts[1] in BATCH:
            return path
        self.fault(key, f"{table.use} requires '{path}', which is no row; rows are {_ROWS}", kind="plugin")
        return None

    def given(
        self, row: EmbeddingKey | str, groups: Mapping[str, int], backbone: Backbone,
        heads: Mapping[str, HeadPlan | None], key: tuple[str, ...],
    ) -> tuple[Axis, ...] | None:  # fmt: skip
        """Return the axes of a row as this recipe gives it; None when it does not, which is a problem."""
        if isinstance(row, str) and row.count(".") == 1:
            return BATCH[row.partition(".")[2]]
        group = row.rpartition(".")[2] if isinstance(row, str) else row.group
        if group not in groups:
            self.no_group(row, group, groups, key)
            return None
        front: tuple[Axis, ...] = ("b", groups[group])
        if isinstance(row, str):
            return (*front, *BATCH_OF_GROUP[row.split(".")[1]])
        if not row.head:
            return self.from_backbone(row, front, backbone, key)
        return self.from_head(row, front, heads, key)

    def no_group(self, row: EmbeddingKey | str, group: str, groups: Mapping[str, int], key: tuple[str, ...]) -> None:
        """Complain once per objective and group, however many of its rows it reads."""
        lacks = f"gives no view group '{group}'"
        if any(problem.key == key and lacks in problem.what for problem in self.problems):
            return
        given = ", ".join(f"{name}: {count}" for name, count in groups.items())
        who = [id_ for id_, other in self.plugins.components["sampler"].items() if group in _default_groups(other)]
        instead = [f'[sampler] use = "{id_}"' for id_ in who]
        instead += [f'inputs = {{ {group} = "{name}" }} in [{".".join(key)}]' for name in groups]
        use = self.recipe.sampler.use
        self.fault(
            key,
            f"it needs {row}, but sampler '{use}' {lacks} (it gives {given})",
            "write " + ", or ".join(instead),
        )

    def from_backbone(
        self, row: EmbeddingKey, front: tuple[Axis, ...], backbone: Backbone, key: tuple[str, ...]
    ) -> tuple[Axis, ...] | None:
        if row.kind not in backbone.gives:
            self.fault(
                key,
                f"it needs {row}, but backbone '{self.recipe.backbone.use}' gives only {', '.join(backbone.gives)}",
                "choose another [backbone]",
            )
            return None
        return (*front, *(backbone.dim if axis == "f" else axis for axis in parse(backbone.gives[row.kind])))

    def from_head(
        self, row: EmbeddingKey, front: tuple[Axis, ...], heads: Mapping[str, HeadPlan | None], key: tuple[str, ...]
    ) -> tuple[Axis, ...] | None:
        if row.head not in heads:
            known = ", ".join(heads) or "none"
            self.fault(
                key,
                f"it needs {row} of head '{row.head}', but the recipe has no [heads.{row.head}] (it has {known})",
                f'add [heads.{row.head}] projector = {{ use = "mlp" }}, or write head = "..." in [{".".join(key)}]',
            )
            return None
        head = heads[row.head]
        if head is None:
            return None
        if row.kind == "prediction" and head.predictor is None:
            self.fault(
                key,
                f"it needs {row}, but [heads.{row.head}] has no predictor",
                f'add predictor = {{ use = "mlp" }} to [heads.{row.head}]',
            )
            return None
        return (*front, *head.axes(row.kind))

    def unused_inputs(self, table: ObjectiveTable, made: ConfiguredComponent, key: tuple[str, ...]) -> None:
        cls = made.component.cls
        read = {_group_of(spec) for spec in [*cls.requires.values(), *cls.optional.values()]}
        for group in table.inputs.keys() - read:
            self.fault(
                (*key, "inputs"),
                f"inputs renames group '{group}', which {made.component.id} does not read",
                f"it reads {', '.join(sorted(read))}",
            )

    def doubled_inputs(self, table: ObjectiveTable, made: ConfiguredComponent, key: tuple[str, ...]) -> None:
        """Refuse an optional group that is one which the objective reads anyway: views would meet themselves."""
        cls = made.component.cls
        own = {_group_of(spec) for spec in cls.requires.values()}
        required = {table.inputs.get(group, group): group for group in own}
        for group in {_group_of(spec) for spec in cls.optional.values()}:
            bound = table.inputs.get(group, group)
            if bound in required:
                self.fault(
                    (*key, "inputs"),
                    f"{made.component.id} reads '{bound}' as '{required[bound]}' and as '{group}': "
                    "its views would be compared with themselves",
                    f"leave {group} out, which is optional, or bind it to another group",
                )

    def used_head(self, table: ObjectiveTable, rows: Mapping[str, EmbeddingKey | str], key: tuple[str, ...]) -> str:
        """Return the objective's head: the default where it reads none, though a name that does not exist is a slip."""
        if any(isinstance(row, EmbeddingKey) and row.head for row in rows.values()):
            return table.head
        default = str(ObjectiveTable.model_fields["head"].default)
        if table.head not in (default, *self.recipe.heads):
            known = ", ".join(self.recipe.heads) or "none"
            self.fault(
                (*key, "head"),
                f"the recipe has no [heads.{table.head}] (it has {known}), and {table.use or key[-1]} reads no head",
                "leave head out",
            )
        return default

    # -------------------------------------------------------------------------------------- what is built

    def prune(self, plan: Plan, groups: Mapping[str, int]) -> None:
        """Keep what some objective reads."""
        every = [row for item in plan.objectives for row in item.rows.values()]
        plan.rows = sorted(
            {row for row in every if isinstance(row, EmbeddingKey)}, key=lambda row: (str(row), row.head)
        )
        read = {row.group if isinstance(row, EmbeddingKey) else row.rpartition(".")[2] for row in every}
        plan.groups = {group: count for group, count in groups.items() if group in read}
        used = {row.head for row in plan.rows}
        predicting = {row.head for row in plan.rows if row.kind == "prediction"}
        plan.heads = {
            name: HeadPlan(head.projector, head.predictor, head.in_dim, head.dim, head.out_dim, name in predicting)
            for name, head in plan.heads.items()
            if name in used
        }

    def augment(self, plan: Plan) -> None:
        for group, count in plan.groups.items():
            tables = self.recipe.augment.get(group)
            if not tables:
                self.fault(
                    ("augment",),
                    f"there is no [[augment.{group}]], and the views of group '{group}' are read",
                    f"add [[augment.{group}]] once for all its {count} views, or {count} times",
                )
                continue
            for network in NETWORKS:
                if plan.has(network):
                    self.augment_for(plan, group, network, tables)
            if plan.views.get((group, "target")) == plan.views.get((group, "online")) and not any(
                table.network != "both" for table in tables
            ):
                plan.views.pop((group, "target"), None)

    def augment_for(self, plan: Plan, group: str, network: str, tables: list[View]) -> None:
        reads = any(row.network == network and row.group == group for row in plan.rows)
        count = plan.groups[group]
        mine = [table for table in tables if table.network in ("both", network)]
        if reads and len(mine) not in (1, count):
            self.fault(
                ("augment", group),
                f"group '{group}' has {count} views, but {len(mine)} [[augment.{group}]] for the {network} network",
                f"write one for all of them, or {count}",
            )
        elif reads:
            plan.views[group, network] = mine * (count // len(mine))

    def rehearse(self, plan: Plan, backbone: Backbone | None) -> None:
        """Push images of each size through the backbone, as shapes: too small or indivisible sizes show here."""
        for (group, _), views in plan.views.items():
            if len({view.size for view in views}) > 1:
                sizes = ", ".join(str(view.size) for view in views)
                what = f"the views of group '{group}' differ in size ({sizes})"
                self.fault(("augment", group), what, "write one size; views of another size are another group")
        for group, size in sorted({(group, views[0].size) for (group, _), views in plan.views.items()}):
            self.rehearse_size(group, size, backbone)

    def rehearse_size(self, group: str, size: int, backbone: Backbone | None) -> None:
        if backbone is None:
            return
        try:
            backbone.train()(torch.zeros(2, 3, size, size, device="meta"))
        except Exception as error:  # whatever a backbone says about a size
            use = self.recipe.backbone.use
            self.fault(("augment", group), f"backbone '{use}' cannot take views of {size} x {size} pixels: {error}")

    # ------------------------------------------------------------------------------------------ the rest

    def batches(self) -> None:
        recipe = self.recipe
        if recipe.batch_size % recipe.accumulate:
            self.fault(
                ("accumulate",),
                f"batch_size = {recipe.batch_size} does not divide by accumulate = {recipe.accumulate}",
            )
        elif recipe.batch_size // recipe.accumulate == 1:
            self.fault(
                ("batch_size",),
                "one image per pass leaves batch norm nothing to normalise over",
                "write batch_size = 2 or more (per pass and device)",
            )

    def needs_proposals(self, sampler: ViewSampler | None) -> None:
        if sampler is not None and sampler.needs_proposals and self.recipe.proposals is None:
            known = list(self.plugins.components["proposer"])
            self.fault(
                ("sampler",),
                f"sampler '{self.recipe.sampler.use}' chooses from region proposals, and the recipe names none",
                f"add a table: [proposals] use = one of {', '.join(known)}",
            )

    def remark(self, plan: Plan, sampler: ViewSampler | None) -> None:
        if plan.proposer and sampler is not None and not sampler.needs_proposals:
            plan.notes.append(f"[proposals] is not used: sampler '{self.recipe.sampler.use}' needs none")
            plan.proposer = None
        if not plan.has("target"):
            plan.notes.append("no objective reads the target network: none is built")
        for name in self.recipe.heads.keys() - plan.heads.keys():
            plan.notes.append(f"[heads.{name}] is read by no objective: not built")
        for group in self.recipe.augment.keys() - plan.groups.keys():
            plan.notes.append(f"view group '{group}' is read by no objective: not cut")
        norms = self.recipe.forward.batch_norm
        for group in sorted(set(norms) - plan.groups.keys()) if isinstance(norms, dict) else ():
            plan.notes.append(f"[forward] batch_norm names view group '{group}', which is not cut")
        for plugin, version in self.recipe.plugins.items():
            have = self.plugins.owners.get(plugin)
            if have and have.version != version:
                plan.notes.append(f"the recipe was resolved with {plugin} {version}; installed is {have.version}")


def _group_of(spec: str) -> str:
    return spec.partition(":")[0].strip().rpartition(".")[2]


def _default_groups(component: Component) -> Mapping[str, int]:
    try:
        sampler: ViewSampler = component.cls()
    except Exception:  # one that cannot be made without options suggests nothing
        return {}
    return sampler.groups
