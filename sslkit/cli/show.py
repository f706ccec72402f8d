"""What commands print: results on stdout, as tables for people and as JSON for programs."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sslkit.data import bad_images
from sslkit.errors import PluginError, Problem, closest
from sslkit.planning.options import schema
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import RecipeFile, View
from sslkit.plugins import Component, Plugins
from sslkit.probes.evaluate import ProbeScores, is_rate
from sslkit.probes.measure import Measured
from sslkit.progress import make_console
from sslkit.training.trainer import Result
from sslkit.verify import world_size
from sslkit.verify.replay import ReplayResult
from sslkit.verify.resume import ResumeComparison

if TYPE_CHECKING:
    from sslkit.ablation.estimate import Estimate
    from sslkit.ablation.trials import Ablation


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(value, indent=2, default=str))  # noqa: T201


def _print(*parts: Any) -> None:
    console = make_console(stderr=False)
    for part in parts:
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


# ------------------------------------------------------------------------------------------------- results


def of_result(result: Result) -> dict[str, Any]:
    """Describe what a run came to."""
    return {
        "folder": str(result.folder),
        "state": result.state,
        "step": result.step,
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "seconds": round(result.seconds, 1),
        "bad_images": result.bad,
        "terms": result.terms,
        "probes": result.probes,
    }


def print_result(result: Result) -> None:
    """Print the probes' table and where everything lies."""
    if result.probes:
        _print(probe_table(result.probes))
    if result.state == "finished" and result.resumed_from == result.steps:
        _print(f"{result.folder} is already finished ({result.steps} steps); nothing was trained")
        return
    if result.bad:
        _print(f"{result.bad} images could not be used and were replaced; {result.folder / bad_images.FILE} lists them")
    done = f"{result.step} of {result.steps} steps in {result.seconds:.0f} s"
    _print(f"{result.state}: {done}; everything is in {result.folder}")


def probe_table(probes: Mapping[str, ProbeScores]) -> Table:
    """Lay out probe figures: one row per probe and metric, one column per set of features."""
    rows = list(dict.fromkeys((name, metric) for found in probes.values() for name in found for metric in found[name]))
    table = _table("Frozen features", "probe", "figure", *probes)
    table.columns[1].justify = "left"
    last = None
    for name, metric in rows:
        if last not in (None, name):
            table.add_section()
        figures = [_figure(metric, found.get(name, {}).get(metric)) for found in probes.values()]
        table.add_row("" if name == last else name, metric.replace("_", " "), *figures)
        last = name
    return table


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if is_rate(metric) else f"{value:g}"


def of_measured(measured: Measured) -> dict[str, Any]:
    """Describe what `sslkit probe` has found."""
    return {
        "weights": measured.weights,
        "partial": measured.partial,
        "written": str(measured.written) if measured.written else None,
        "probes": measured.probes,
    }


def print_measured(measured: Measured) -> None:
    """Print the figures, beside those that the run's folder already has."""
    _print(probe_table(measured.shown))
    where = f"written to {measured.written}" if measured.written else "not written anywhere"
    _print(f"measured {measured.weights}; {where}")


def of_replayed(made: ReplayResult) -> dict[str, Any]:
    """Describe a step that was done again; values as they are written in Python, for NaN has no JSON."""
    return {
        "step": made.step,
        "then": {name: repr(value) for name, value in made.then.items()},
        "now": {name: repr(value) for name, value in made.now.items()},
        "differs": made.differs,
        "same_images": made.same_images,
        "first_bad": made.first_bad,
    }


def print_replayed(made: ReplayResult) -> None:
    """Print what a step came to then and now, and where it went wrong."""
    table = Table(title=f"Step {made.step}", title_justify="left")
    for name in ("", "then", "now"):
        table.add_column(name, justify="right" if name else "left")
    for name, value in made.then.items():
        table.add_row(name, f"{value:.6g}", f"{made.now[name]:.6g}" + (" differs" if name in made.differs else ""))
    _print(table)
    _print(f"first non-finite output: {made.first_bad}" if made.first_bad else "every module's output was finite")
    if not made.same_images:
        _print("the images are others than those of the record: the source has changed")
    if made.differs:
        _print(f"{len(made.differs)} of {len(made.then)} values differ from the record")
    else:
        _print("the same as in the record, bit for bit")


def of_comparison(made: ResumeComparison) -> dict[str, Any]:
    """Describe a run that was killed, beside one that was not."""
    return {
        "steps": made.steps,
        "kills": [{"step": kill.step, "saving": kill.saving} for kill in made.kills],
        "whole": made.whole,
        "killed": made.killed,
        "differs": made.differs,
    }


def print_comparison(made: ResumeComparison) -> None:
    """Print both runs' hashes, component by component."""
    table = Table()
    for name in ("component", "without a kill", "with kills", ""):
        table.add_column(name)
    for name, value in made.whole.items():
        other = made.killed.get(name, "(none)")
        table.add_row(name, value, other, "same" if value == other else "differs")
    _print(table)
    for line in made.lines:
        _print(line)
    saving = sum(kill.saving for kill in made.kills)
    what = f"{len(made.kills)} kills, {saving} of them inside a save, in {made.steps} steps"
    _print(f"{what}: {'the same bits' if not made.differs else 'differs in ' + ', '.join(made.differs)}")


def of_world_sizes(made: Sequence[world_size.WorldSizeComparison]) -> list[dict[str, Any]]:
    """Describe numbers of processes beside the first."""
    return [
        {
            "sizes": list(item.sizes), "steps": item.steps, "largest": item.largest, "breaking": item.breaking,
            "first": item.first and asdict(item.first),
            "whole_batch_norm": of_world_sizes([item.whole])[0] if item.whole else None,
        }
        for item in made
    ]  # fmt: skip


def print_world_sizes(made: Sequence[world_size.WorldSizeComparison]) -> None:
    """Print how far what is made with each number of processes is from what the first makes."""
    for item in made:
        table = Table("", *(["as it is", "batch norm over all processes"] if item.whole else ["difference"]))
        for kind, value in item.largest.items():
            others = [item.whole.largest[kind]] if item.whole else []
            table.add_row(kind, *(_apart(difference) for difference in (value, *others)))
        _print(table)
        for found in (item, item.whole):
            if found:
                _print(_verdict(found, over_all=found is item.whole))


def _apart(relative: float) -> str:
    return (
        "the same bits"
        if relative == 0
        else f"{relative:.1e}" + (" differs" if relative > world_size.TOLERANCE else "")
    )


def _verdict(found: world_size.WorldSizeComparison, over_all: bool) -> str:
    one, other = (f"{size} process{'es' * (size > 1)}" for size in found.sizes)
    which = ", with batch norm over all processes" if over_all else ""
    if found.first is None:
        return f"{one} and {other}{which}: the same up to rounding, {found.steps} steps"
    first = found.first
    return (
        f"{one} and {other}{which} differ, first in step {first.step} at {first.name} by {first.relative:.1e}: "
        f"{first.component}"
    )


def print_bad_images(images: int, rows: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Print what `sslkit data check` has found."""
    for row in rows:
        _print(row["reason"])
    where = f"; the list is in {out}" if out else ""
    _print(f"{len(rows)} of {images} images cannot be used{where}" if rows else f"all {images} images can be used")


# -------------------------------------------------------------------------------------------------- checks


def of_check(text: RecipeFile, problems: Sequence[Problem], plan: Plan | None) -> dict[str, Any]:
    """Describe a check: problems, or the plan."""
    listed = [
        {
            "where": text.where(item.key),
            "key": ".".join(item.key),
            "kind": item.kind,
            "what": item.what,
            "instead": item.instead,
        }
        for item in problems
    ]
    return {"recipe": text.origin, "problems": listed, "plan": of_plan(plan) if plan else None}


def of_plan(plan: Plan) -> dict[str, Any]:
    """Describe what a plan builds and costs."""
    from sslkit.networks.cost import measure

    cost = measure(plan)
    return {
        "networks": [name for name in ("online", "target") if plan.has(name)],
        "groups": plan.groups,
        "views": {".".join(key): _shown(views) for key, views in plan.views.items()},
        "heads": {name: {"projection": head.dim, "predictor": head.predicts} for name, head in plan.heads.items()},
        "objectives": {item.name: [str(row) for row in item.rows.values()] for item in plan.objectives},
        "lr": plan.recipe.optimizer.lr(plan.recipe.batch_size),
        "notes": plan.notes,
        "gflops_per_image": round(cost.flops / 1e9, 3),
        "trained_parameters": cost.online_parameters,
        "target_parameters": cost.target_parameters,
    }


def _shown(views: Sequence[View]) -> str:
    return f"{len(views)} x {views[0].size} px"


def print_plan(text: RecipeFile, plan: Plan) -> None:
    """Print what a recipe builds."""
    described = of_plan(plan)
    table = _table(f"{text.origin}: fine", "what", "is built")
    table.columns[1].justify = "left"
    recipe = plan.recipe
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
    table.add_row("summary", recipe.summary)
    table.add_row(
        "training",
        f"{length}, batch {recipe.batch_size}, {recipe.optimizer.use} at {described['lr']:g}, {recipe.precision}",
    )
    table.add_row("source, sampler", f"{plan.source.component.id}, {plan.sampler.component.id}")
    table.add_row("views", ", ".join(f"{name}: {shown}" for name, shown in described["views"].items()))
    table.add_row("networks", f"{' and '.join(described['networks'])}, {plan.backbone.component.id}")
    for item in plan.objectives:
        table.add_row(
            f"objective {item.name}",
            f"{item.weight:g} x {item.made.component.id}({', '.join(map(str, item.rows.values()))})",
        )
    table.add_row(
        "cost per image",
        f"{described['gflops_per_image']:.3g} GFLOPs, {described['trained_parameters'] / 1e6:.1f} M trained parameters",
    )
    _print(table, *(f"note: {note}" for note in plan.notes))


def print_diff(a: str, b: str, rows: Sequence[tuple[str, Any, Any]]) -> None:
    """Print differing values side by side."""
    if not rows:
        _print(f"{a} and {b} resolve to the same recipe")
        return
    table = _table("", "key", a, b)
    for key, old, new in rows:
        table.add_row(key, *("-" if value is None else json.dumps(value) for value in (old, new)))
    _print(table)


# ------------------------------------------------------------------------------------------------ ablations


def of_ablation(ablation: Ablation, estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Describe the arms and what each will take, per run and for all seeds."""
    full = estimates[0].flops
    return [
        {
            "arm": variant.arm.name,
            "objectives": list(variant.plan.recipe.objectives),
            "views": variant.plan.groups,
            "networks": [name for name in ("online", "target") if variant.plan.has(name)],
            "gflops_per_image": round(found.flops / 1e9, 3),
            "share_of_full": round(found.flops / full, 3),
            "images": found.images,
            "hours": found.hours,
            "memory": found.memory,
            "disk": found.disk,
            "runs": {str(run.seed): run.state for run in variant.runs},
        }
        for variant, found in zip(ablation.variants, estimates, strict=True)
    ]


def print_ablation(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per arm, and the sum below."""
    table = _table(
        "Nothing was trained", "arm", "views", "networks", "GFLOPs/image", "of full", "hours", "memory", "disk", "runs"
    )
    for row in listed:
        views = ", ".join(f"{count} {group}" for group, count in row["views"].items())
        table.add_row(
            row["arm"], views, "+".join(row["networks"]), f"{row['gflops_per_image']:.3g}",
            f"{row['share_of_full']:.0%}", _hours(row["hours"]), _bytes(row["memory"]), _bytes(row["disk"]),
            _states(row["runs"].values()),
        )  # fmt: skip
    left = [(row, sum(state != "finished" for state in row["runs"].values())) for row in listed]
    known = all(row["hours"] is not None for row, _ in left)
    total = (
        f", about {_hours(sum(row['hours'] * count for row, count in left))} hours one after another" if known else ""
    )
    runs, disk = sum(count for _, count in left), sum(row["disk"] * count for row, count in left)
    _print(table, f"to train: {runs} runs{total}, {_bytes(disk)} on disk")
    _print(
        "per run; hours: the first arm's networks timed on this machine, others by their operations, data not counted"
        if known
        else "per run; no hours: the [source] cannot be opened yet, so its images cannot be counted"
    )


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.2g} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _states(states: Iterable[str]) -> str:
    counted = Counter(states)
    return ", ".join(f"{count} {state}" for state, count in counted.items())


# ------------------------------------------------------------------------------------------------ listings


def print_recipes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print names and summaries."""
    table = _table("", "recipe", "summary")
    table.columns[1].justify = "left"
    for row in rows:
        table.add_row(row["name"], row["summary"])
    _print(table)


def of_plugins(plugins: Plugins) -> dict[str, Any]:
    """Describe the loaded plugins, their components, and the broken ones."""
    components = [item for kind in plugins.components.values() for item in kind.values()]
    listed = {
        name: {
            "distribution": owner.distribution,
            "version": owner.version,
            "components": [_listed(item) for item in components if item.owner == owner],
        }
        for name, owner in plugins.owners.items()
    }
    broken = [
        {
            "plugin": item.owner.plugin,
            "distribution": item.owner.distribution,
            "version": item.owner.version,
            "reason": item.reason,
        }
        for item in plugins.broken
    ]
    return {"plugins": listed, "broken": broken}


def _listed(item: Component) -> dict[str, str]:
    return {"kind": item.kind, "id": item.id, "summary": item.summary}


def print_plugins(listed: Mapping[str, Any]) -> None:
    """Print one row per component, and what is broken below."""
    table = _table("", "plugin", "kind", "id", "summary")
    for column in table.columns:
        column.justify = "left"
    for name, plugin in listed["plugins"].items():
        rows = plugin["components"] or [{"kind": "-", "id": "-", "summary": "hooks only"}]
        for number, row in enumerate(rows):
            first = f"{name} ({plugin['distribution']} {plugin['version']})" if number == 0 else ""
            table.add_row(first, row["kind"], row["id"], row["summary"])
        table.add_section()
    broken = [
        f"broken: {item['plugin']} ({item['distribution']} {item['version']}): {item['reason']}"
        for item in listed["broken"]
    ]
    _print(table, *broken)


def of_component(plugins: Plugins, name: str) -> list[dict[str, Any]]:
    """Describe the components of this id or short name, with their options.

    Raises:
        PluginError: There is none.
    """
    every = [item for kind in plugins.components.values() for item in kind.values()]
    matches = [item for item in every if name in (item.id, item.id.partition("/")[2])]
    if not matches:
        hint = closest(name, [item.id.partition("/")[2] for item in every])
        raise PluginError(f"no component is named '{name}'{hint}; `sslkit plugins` lists them")
    return [_described(item) for item in matches]


def _described(item: Component) -> dict[str, Any]:
    options = schema(item.cls).model_json_schema()
    rows = [
        {"option": key, "default": value.get("default"), "type": _type(value)}
        for key, value in options.get("properties", {}).items()
    ]
    return {
        "id": item.id,
        "kind": item.kind,
        "documentation": inspect.cleandoc(item.cls.__doc__ or ""),
        "options": rows,
        "requires": dict(getattr(item.cls, "requires", {})),
        "distribution": item.owner.distribution,
        "version": item.owner.version,
    }


def _type(value: Mapping[str, Any]) -> str:
    """Write a JSON schema type in a few words."""
    if "anyOf" in value:
        return " or ".join(_type(item) for item in value["anyOf"])
    if "enum" in value:
        return " | ".join(json.dumps(item) for item in value["enum"])
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[name]:g}" for name, sign in signs.items() if name in value]
    return " ".join([str(value.get("const", value.get("type", "any"))), *limits])


def print_component(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print documentation and options."""
    for item in listed:
        table = _table("", "option", "default", "type")
        for row in item["options"]:
            table.add_row(row["option"], json.dumps(row["default"]), row["type"])
        head = f"{item['kind']} {item['id']} ({item['distribution']} {item['version']})"
        _print(head, "", item["documentation"], *([table] if item["options"] else ["no options"]))
