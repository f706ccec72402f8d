"""Show recipes: their problems, what they build, how two of them differ, and which ones are available."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sslkit.cli.show.tables import make_table, print_parts
from sslkit.errors import Problem
from sslkit.networks.cost import Cost, CostError, measure
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View
from sslkit.planning.recipe_file import RecipeFile


def describe_check(text: RecipeFile, problems: Sequence[Problem], plan: Plan | None) -> dict[str, Any]:
    """Describe the problems of a recipe, and its plan when there are none."""
    listed = [
        {
            "where": text.places(problem)[0],
            "also_where": text.places(problem)[1:],
            "key": ".".join(problem.key),
            "kind": problem.kind,
            "what": problem.what,
            "instead": problem.instead,
        }
        for problem in problems
    ]
    return {"recipe": text.origin, "problems": listed, "plan": describe_plan(plan) if plan else None}


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Describe what a plan builds and costs."""
    cost, notes = _cost(plan)
    return {
        "networks": [name for name in ("online", "target") if plan.has(name)],
        "groups": plan.groups,
        "views": {".".join(key): _count_and_size(views) for key, views in plan.views.items()},
        "heads": {name: {"projection": head.dim, "predictor": head.predicts} for name, head in plan.heads.items()},
        "objectives": {item.name: [str(row) for row in item.rows.values()] for item in plan.objectives},
        "lr": plan.recipe.optimizer.lr(plan.recipe.batch_size),
        "notes": [*plan.notes, *notes],
        "gflops_per_image": round(cost.flops / 1e9, 3) if cost else None,
        "trained_parameters": cost.online_parameters if cost else None,
        "target_parameters": cost.target_parameters if cost else None,
    }


def _cost(plan: Plan) -> tuple[Cost | None, list[str]]:
    """Return the cost of a plan, or why it is not known: a run may be possible all the same."""
    try:
        return measure(plan), []
    except CostError as error:
        return None, [str(error)]


def _count_and_size(views: Sequence[View]) -> str:
    return f"{len(views)} x {views[0].size} px"


def print_plan(text: RecipeFile, plan: Plan) -> None:
    """Print what a recipe builds."""
    described = describe_plan(plan)
    table = make_table(f"{text.origin}: no problems", "item", "value", left=2)
    recipe = plan.recipe
    table.add_row("summary", recipe.summary)
    table.add_row(
        "training",
        f"{recipe.length}, batch {recipe.batch_size}, {recipe.optimizer.use} at {described['lr']:g}, "
        f"{recipe.precision}",
    )
    table.add_row("source, sampler", f"{plan.source.component.id}, {plan.sampler.component.id}")
    table.add_row("views", ", ".join(f"{name}: {views}" for name, views in described["views"].items()))
    table.add_row("networks", f"{' and '.join(described['networks'])}, {plan.backbone.component.id}")
    for item in plan.objectives:
        table.add_row(
            f"objective {item.name}",
            f"{item.weight:g} x {item.objective.component.id}({', '.join(map(str, item.rows.values()))})",
        )
    if described["gflops_per_image"] is not None:
        table.add_row(
            "cost per image",
            f"{described['gflops_per_image']:.3g} GFLOPs, "
            f"{described['trained_parameters'] / 1e6:.1f} M trained parameters",
        )
    print_parts(table, *(f"note: {note}" for note in described["notes"]))


def print_diff(a: str, b: str, rows: Sequence[tuple[str, Any, Any]]) -> None:
    """Print the values in which two recipes differ, side by side."""
    if not rows:
        print_parts(f"{a} and {b} resolve to the same recipe")
        return
    table = make_table("", "key", a, b)
    for key, old, new in rows:
        table.add_row(key, *("-" if value is None else json.dumps(value) for value in (old, new)))
    print_parts(table)


def print_recipes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the names and summaries of recipes."""
    table = make_table("", "recipe", "summary", left=2)
    for row in rows:
        table.add_row(row["name"], row["summary"])
    print_parts(table)
