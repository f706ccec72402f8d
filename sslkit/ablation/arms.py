"""Arms, and the single changes to a recipe that make them: drop, add, swap, vary and set."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from sslkit.ablation.requests import parse_values, split_assignment
from sslkit.errors import PluginError, closest
from sslkit.foreign import lengths
from sslkit.planning import toml
from sslkit.planning.plan import ConfiguredComponent, Plan
from sslkit.planning.recipe import ObjectiveTable, OptimizerTable, ProposalsTable
from sslkit.planning.recipe_file import RecipeFile, parse_value, set_value
from sslkit.plugins import Plugins

_SWAPPABLE = ("source", "proposals", "sampler", "backbone", "optimizer")
"""Tables that `--swap` can replace, besides objectives."""


@dataclass(frozen=True)
class Arm:
    """One variant of the full recipe.

    Attributes:
        name: "full", "drop-instance-instance", "sampler.instances=2", ...
        option: The command line option that requested the arm; empty for the full recipe.
        values: The arm's recipe, as parsed TOML.
        varied: The key that `--vary` set, or an empty string.
    """

    name: str
    option: str
    values: Mapping[str, Any] = field(repr=False)
    varied: str = ""

    def recipe_file(self, full: RecipeFile, seed: int) -> RecipeFile:
        """Return the arm's recipe with a seed; error messages name the file and lines of the full recipe."""
        origin = f"{full.origin} ({self.option})" if self.option else full.origin
        return RecipeFile(full.name, origin, {**copy.deepcopy(self.values), "seed": seed}, full.lines, full.overrides)


class RecipeEditor:
    """Makes arms, each by one change to a copy of a recipe, and collects what is wrong with the requests.

    Args:
        recipe: The recipe to change.
        plan: Plan of the full recipe.
        plugins: Plugins whose components `--add` and `--swap` may name.
        faults: List that receives one message per invalid request.
        objectives: Names of the recipe's objectives; those of the plan by default.
    """

    def __init__(
        self, recipe: RecipeFile, plan: Plan, plugins: Plugins, faults: list[str], objectives: list[str] | None = None
    ) -> None:
        self.recipe, self.plan, self.plugins, self.faults = recipe, plan, plugins, faults
        self.objectives = list(plan.recipe.objectives) if objectives is None else objectives

    def report(self, fault: str) -> None:
        """Add a message to the faults, once."""
        if fault not in self.faults:
            self.faults.append(fault)

    # ---------------------------------------------------------------------------------------- objectives

    def find_objective(self, word: str, option: str) -> str | None:
        """Return the recipe's objective that a word names, by its table or by its component."""
        if word in self.objectives:
            return word
        matches = [
            item.name
            for item in self.plan.objectives
            if item.name in self.objectives and word in _ids(item.objective.component.id)
        ]
        if len(matches) == 1:
            return matches[0]
        hint = closest(word, self.objectives) or f"; it has {', '.join(self.objectives)}"
        self.report(f"{option}: {self.recipe.origin} has no objective '{word}'{hint}")
        return None

    def without(self, dropped: Iterable[str]) -> dict[str, Any]:
        """Return the recipe's values without some of its objectives."""
        values = _copy(self.recipe)
        for name in dropped:
            del values["objectives"][name]
        return values

    def drop(self, words: str) -> Arm | None:
        """Remove the objectives "NAME" or "NAME,NAME"."""
        option = f"--drop {words}"
        matches = [self.find_objective(word.strip(), option) for word in words.split(",")]
        names = [name for name in dict.fromkeys(matches) if name]
        if len(names) < len(matches):
            return None
        if len(names) == len(self.objectives):
            self.report(f"{option} leaves no objective: the recipe has only {', '.join(self.objectives)}")
            return None
        return Arm(f"drop-{'+'.join(names)}", option, self.without(names))

    def add(self, words: str) -> Arm | None:
        """Add an objective, "NAME" or "NAME={...}"."""
        word, equals, text = words.partition("=")
        option = f"--add {words}"
        id_ = self.find_component("objective", word.strip(), option)
        table = parse_value(text) if equals else {}
        if not isinstance(table, dict):
            self.report(f'{option}: {text} is not a table; write --add "{word}={{weight = 0.5}}"')
            return None
        if id_ is None:
            return None
        name = _short(id_)
        if name in self.objectives:
            self.report(f"{option}: the recipe already has an objective '{name}'; --vary changes its options")
            return None
        values = _copy(self.recipe)
        values["objectives"][name] = {"use": id_, **table}
        return Arm(f"add-{name}", option, values)

    def find_component(self, kind: str, word: str, option: str) -> str | None:
        """Return the id of a plugin's component, or report that it cannot be used."""
        try:
            return self.plugins.find(kind, word).id
        except PluginError as error:
            self.report(f"{option}: {error}")
            return None

    def swap(self, words: str) -> Arm | None:
        """Replace an objective or a table, "A=B"."""
        option = f"--swap {words}"
        old, equals, new = (part.strip() for part in words.partition("="))
        if not equals or not old or not new:
            self.report(f"{option}: write --swap A=B, such as --swap scene-scene=byol or --swap sampler=two-views")
            return None
        return self._swap_table(old, new, option) if old in _SWAPPABLE else self._swap_objective(old, new, option)

    def _swap_objective(self, old: str, new: str, option: str) -> Arm | None:
        name = self.find_objective(old, option)
        id_ = self.find_component("objective", new, option)
        if name is None or id_ is None:
            return None
        short = _short(id_)
        if short in self.objectives and short != name:
            self.report(f"{option}: the recipe already has an objective '{short}'")
            return None
        values = _copy(self.recipe)
        values["objectives"] = {
            (short if key == name else key): (
                {"use": id_, **_core_options(table, ObjectiveTable)} if key == name else table
            )
            for key, table in values["objectives"].items()
        }
        return Arm(f"{name}-to-{short}", option, values)

    # ------------------------------------------------------------------------------------------ settings

    def _swap_table(self, table: str, new: str, option: str) -> Arm | None:
        kind = "proposer" if table == "proposals" else table
        if table != "optimizer" and self.find_component(kind, new, option) is None:
            return None
        values = _copy(self.recipe)
        model = {"optimizer": OptimizerTable, "proposals": ProposalsTable}.get(table)
        values[table] = {"use": new, **_core_options(values.get(table, {}), model)}
        return Arm(f"{table}={new}", option, values)

    def vary(self, words: str) -> Sequence[Arm]:
        """Set a key to each of several values, "KEY=VALUE,VALUE"."""
        option = f"--vary {words}"
        assignment = split_assignment(words)
        if assignment is None or not assignment[1].strip():
            self.report(f"{option}: write --vary KEY=VALUE,VALUE, such as --vary sampler.instances=1,2,8")
            return ()
        path, text = assignment
        key = ".".join(path)
        if key == "seed":
            self.report(f"{option}: every arm has the same seeds; --seeds sets how many")
            return ()
        known = self._known_keys()
        keys = {key, lengths.other_unit(key)}
        if not any(item in keys or item.startswith(f"{key}.") for item in known):
            self.report(f"{option}: the recipe has no key '{key}'{closest(key, known)}")
            return ()
        return [self._varied(path, value, option) for value in parse_values(text)]

    def _varied(self, path: tuple[str, ...], value: Any, option: str) -> Arm:
        values, key = _copy(self.recipe), ".".join(path)
        set_value(values, path, value, option)
        return Arm(f"{key}={value if isinstance(value, str) else toml.written(value)}", option, values, key)

    def set(self, words: str) -> Arm | None:
        """Set one key, "KEY=VALUE"."""
        option = f"--set {words}"
        assignment = split_assignment(words)
        if assignment is None or assignment[0] == ("seed",):
            self.report(f"{option}: write --set KEY=VALUE, such as --set sampler.instances=2; --seeds sets the seeds")
            return None
        path, text = assignment
        values = _copy(self.recipe)
        set_value(values, path, parse_value(text), option)
        return Arm(words, option, values)

    def _known_keys(self) -> list[str]:
        """Return the dotted keys of the recipe, defaults and what it may add included."""
        return [*toml.flatten(self.plan.resolved()), *toml.flatten(self.recipe.values), *_optional_keys(self.plan)]


def _optional_keys(plan: Plan) -> list[str]:
    """Return the keys that a recipe's tables may have, including those that are absent by default."""
    options = [f"{place}.{name}" for place, item in _components(plan) for name in item.options]
    return [*_fields("", plan.recipe), *options, *(f"optimizer.{name}" for name in plan.optimizer)]


def _fields(prefix: str, value: Any) -> Iterator[str]:
    """Yield the dotted keys of a model's fields, and of those of the models inside it."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield f"{prefix}{name}"
            yield from _fields(f"{prefix}{name}.", getattr(value, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _fields(f"{prefix}{name}.", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _fields(f"{prefix}{number}.", item)


def _components(plan: Plan) -> Iterator[tuple[str, ConfiguredComponent]]:
    """Yield each component of a plan with the dotted key of its table."""
    places = {"source": plan.source, "sampler": plan.sampler, "backbone": plan.backbone, "proposals": plan.proposer}
    for name, head in plan.heads.items():
        places |= {f"heads.{name}.projector": head.projector, f"heads.{name}.predictor": head.predictor}
    places |= {f"objectives.{item.name}": item.objective for item in plan.objectives}
    for name, probe in plan.probes.items():
        table = f"probes.{name}"
        places |= {table: probe.probe, f"{table}.source": probe.source, f"{table}.test_source": probe.test_source}
    yield from ((place, item) for place, item in places.items() if item)


def _ids(id_: str) -> tuple[str, str]:
    return id_, _short(id_)


def _short(id_: str) -> str:
    """Return a component's id without its plugin."""
    return id_.partition("/")[2]


def _copy(recipe: RecipeFile) -> dict[str, Any]:
    values = copy.deepcopy(recipe.values)
    assert isinstance(values, dict)
    return values


def _core_options(table: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return a table's options for the core; all others belong to the component that is replaced."""
    known = set(model.model_fields) - {"use"} if model else set()
    return {key: item for key, item in table.items() if key in known}
