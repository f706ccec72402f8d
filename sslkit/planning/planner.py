"""Turn a recipe into a plan, and report everything that is wrong with it, before any tensor is allocated.

Components are built once on torch's meta device (shapes without memory), so that errors of their constructors show
here and not in the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sslkit.api import Backbone, ViewSampler
from sslkit.errors import Problem, closest
from sslkit.optim import OPTIMIZERS
from sslkit.planning.heads import wire_head
from sslkit.planning.plan import EmbeddingKey, ObjectivePlan, Plan
from sslkit.planning.probes import wire_probe
from sslkit.planning.recipe import ObjectiveTable, Recipe
from sslkit.planning.resolver import Resolver
from sslkit.planning.rows import RowMatcher
from sslkit.planning.views import check_sizes, plan_views
from sslkit.plugins import Plugins


def make_plan(
    recipe: Recipe, plugins: Plugins, faulty: Iterable[tuple[str, ...]] = ()
) -> tuple[Plan | None, list[Problem]]:
    """Return the plan of a recipe (None when there are problems) and every problem.

    Args:
        recipe: The recipe.
        plugins: The plugins that offer its components.
        faulty: Keys that were left out of the recipe, as they have problems: what follows from that is none.
    """
    planner = Planner(recipe, plugins, faulty)
    plan = planner.plan()
    return (None if planner.problems else plan), planner.problems


class Planner(Resolver):
    """Build a plan in stages. Each stage goes as far as it can, so that all problems are found at once."""

    def __init__(self, recipe: Recipe, plugins: Plugins, faulty: Iterable[tuple[str, ...]] = ()) -> None:
        super().__init__(plugins, faulty)
        self.recipe = recipe

    def plan(self) -> Plan | None:
        """Return the plan, or None when too little of the recipe is valid; `problems` says why."""
        recipe = self.recipe
        source = self.choose("source", recipe.source, ("source",))
        proposer = self.choose("proposer", recipe.proposals, ("proposals",)) if recipe.proposals else None
        sampler = self.choose("sampler", recipe.sampler, ("sampler",))
        backbone = self.choose("backbone", recipe.backbone, ("backbone",))
        built_sampler: ViewSampler | None = self.build(sampler, ("sampler",))
        built_backbone: Backbone | None = self.build(backbone, ("backbone",))

        heads = {name: wire_head(self, name, table, built_backbone) for name, table in recipe.heads.items()}
        groups = dict(built_sampler.groups) if built_sampler else None
        matcher = None
        if groups is not None and built_backbone is not None:
            matcher = RowMatcher(self, recipe, groups, built_backbone, heads)
        objectives = [self._objective(name, table, matcher) for name, table in recipe.objectives.items()]
        probes = {
            name: wire_probe(self, name, table, source, backbone, built_backbone)
            for name, table in recipe.probes.items()
        }
        optimizer = self._optimizer()
        self._check_batch_size()
        self._check_proposals(built_sampler)
        if source is None or sampler is None or backbone is None or groups is None:
            return None

        plan = Plan(recipe, source, proposer, sampler, backbone, optimizer)
        plan.probes = {name: probe for name, probe in probes.items() if probe}
        plan.objectives = [objective for objective in objectives if objective]
        plan.heads = {name: head for name, head in heads.items() if head}
        _keep_required(plan, groups)
        self._check_trains(plan)
        plan_views(self, plan)
        check_sizes(self, plan, built_backbone)
        self._drop_unused_proposals(plan, built_sampler)
        plan.notes += self._notes(plan) + self.notes
        return plan

    def _objective(self, name: str, table: ObjectiveTable, matcher: RowMatcher | None) -> ObjectivePlan | None:
        """Choose an objective, match its rows and build it once."""
        key = ("objectives", name)
        objective = self.choose("objective", table, key)
        if objective is None or matcher is None:
            return None
        earlier = len(self.problems)
        matched = matcher.match(objective, table, key)
        if matched is None or len(self.problems) > earlier:
            return None
        rows, dims = matched
        if objective.component.cls.couples_batch:
            dims["b"] = self.recipe.batch_size // self.recipe.accumulate
        if self.build(objective, key, dims) is None:
            return None
        head = matcher.used_head(table, rows, key)
        return ObjectivePlan(name, objective, table.weight, head, table.inputs, rows, dims)

    def _optimizer(self) -> dict[str, Any]:
        """Return the validated options of the optimizer; empty when there are problems."""
        table, key = self.recipe.optimizer, ("optimizer",)
        if table.use not in OPTIMIZERS:
            hint = closest(table.use, OPTIMIZERS) or f"; known: {', '.join(OPTIMIZERS)}"
            self.fault((*key, "use"), f"unknown optimizer '{table.use}'{hint}")
            return {}
        return self.options(OPTIMIZERS[table.use], table, key, f"optimizer '{table.use}'") or {}

    def _check_trains(self, plan: Plan) -> None:
        """Refuse objectives none of which reads the online network."""
        if not plan.has("online") and len(plan.objectives) == len(self.recipe.objectives) > 0:
            what = "no objective reads the online network, so nothing is trained"
            self.fault(("objectives",), what, "add an objective that reads online.features or online.projection")

    def _check_batch_size(self) -> None:
        """Refuse a batch that does not divide into micro-batches of two images or more."""
        recipe = self.recipe
        if self.is_faulty("batch_size") or self.is_faulty("accumulate"):
            return
        if recipe.batch_size % recipe.accumulate:
            what = f"batch_size = {recipe.batch_size} is not divisible by accumulate = {recipe.accumulate}"
            self.fault(("accumulate",), what, also=[("batch_size",)])
        elif recipe.batch_size // recipe.accumulate == 1:
            self.fault(
                ("batch_size",),
                "one image per micro-batch leaves batch norm nothing to normalise over",
                "write batch_size = 2 or more (per micro-batch and device)",
                also=[("accumulate",)],
            )

    def _check_proposals(self, sampler: ViewSampler | None) -> None:
        """Refuse a sampler that needs proposals in a recipe that names no proposer."""
        if sampler is not None and sampler.needs_proposals and self.recipe.proposals is None:
            known = list(self.plugins.components["proposer"])
            self.fault(
                ("sampler",),
                f"sampler '{self.recipe.sampler.use}' chooses from region proposals, and the recipe names none",
                f"add a table: [proposals] use = one of {', '.join(known)}",
            )

    def _drop_unused_proposals(self, plan: Plan, sampler: ViewSampler | None) -> None:
        if plan.proposer and sampler is not None and not sampler.needs_proposals:
            plan.notes.append(f"[proposals] is not used: sampler '{self.recipe.sampler.use}' needs none")
            plan.proposer = None

    def _notes(self, plan: Plan) -> list[str]:
        """Note what the recipe names but the plan leaves out, and which plugins' versions differ."""
        recipe, owners = self.recipe, self.plugins.owners
        unused = recipe.heads.keys() - plan.heads.keys()
        uncropped = recipe.augment.keys() - plan.groups.keys()
        unseen = [group for group in plan.groups if not plan.is_seen(group)]
        norms = recipe.forward.batch_norm
        unnormalised = sorted(set(norms) - plan.groups.keys()) if isinstance(norms, dict) else []
        return [
            *([] if plan.has("target") else ["no objective reads the target network: it is not built"]),
            *(f"no objective reads [heads.{name}]: it is not built" for name in unused),
            *(f"no objective reads view group '{group}': it is not cropped" for group in uncropped),
            *(f"no network sees view group '{group}', whose boxes are read: it is not cropped" for group in unseen),
            *(f"[forward] batch_norm names view group '{group}', which no objective reads" for group in unnormalised),
            *(
                f"the recipe was resolved with {plugin} {version}, but {owners[plugin].version} is installed"
                for plugin, version in recipe.plugins.items()
                if plugin in owners and owners[plugin].version != version
            ),
        ]


def _keep_required(plan: Plan, groups: Mapping[str, int]) -> None:
    """Keep the rows, view groups and heads that some objective reads."""
    every = [row for objective in plan.objectives for row in objective.rows.values()]
    embeddings = {row for row in every if isinstance(row, EmbeddingKey)}
    plan.rows = sorted(embeddings, key=lambda row: (str(row), row.head))
    read = {row.group if isinstance(row, EmbeddingKey) else row.rpartition(".")[2] for row in every}
    plan.groups = {group: count for group, count in groups.items() if group in read}
    used = {row.head for row in plan.rows}
    predicting = {row.head for row in plan.rows if row.kind == "prediction"}
    plan.heads = {name: replace(head, predicts=name in predicting) for name, head in plan.heads.items() if name in used}
