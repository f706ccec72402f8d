"""Turn a table of a recipe into a component with validated options, and collect every problem."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel

from sslkit.contracts.blame import failure
from sslkit.contracts.declarations import class_faults, instance_faults
from sslkit.errors import PluginError, Problem
from sslkit.foreign.isolation import describe, is_failure, isolated
from sslkit.foreign.places import place_of
from sslkit.foreign.signatures import schema
from sslkit.planning import toml
from sslkit.planning.options import validate
from sslkit.planning.plan import ConfiguredComponent
from sslkit.planning.recipe import Choice
from sslkit.plugins import Component, Plugins


class Resolver:
    """Find components, validate their options, and collect problems.

    Attributes:
        plugins: The plugins that offer the components.
        problems: Every problem so far.
        notes: Remarks for the user that are not problems.
        faulty: Paths of keys and tables that were left out or replaced by defaults, as they have problems.
    """

    def __init__(self, plugins: Plugins, faulty: Iterable[tuple[str, ...]] = ()) -> None:
        self.plugins = plugins
        self.faulty = set(faulty)
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def fault(
        self, key: tuple[str, ...], what: str, instead: str = "", kind: str = "recipe",
        also: Iterable[tuple[str, ...]] = (),
    ) -> None:  # fmt: skip
        """Add a problem; `also` are the other keys that it involves."""
        self.problems.append(Problem(what, key, instead, kind, tuple(also)))

    def is_faulty(self, *key: str) -> bool:
        """Return whether a key, one above it or one below it has a problem: what follows from it is not reported."""
        return any(one[: len(key)] == key[: len(one)] for one in self.faulty)

    def choose(self, kind: str, table: Choice, key: tuple[str, ...]) -> ConfiguredComponent | None:
        """Find the component that a table names, and validate its options."""
        try:
            component = self.plugins.find(kind, table.use)
        except PluginError as error:
            self.fault((*key, "use"), str(error), kind="plugin" if "which is broken" in str(error) else "recipe")
            return None
        self._note_others(component, table.use)
        options = self.options(component.cls, table, key, f"{kind} '{component.id}' of {component.owner}")
        if self._broken(class_faults(component), key) or options is None:
            return None
        return ConfiguredComponent(component, options)

    def _broken(self, faults: list[str], key: tuple[str, ...]) -> bool:
        """Add a problem for each fault of a plugin; return whether there are any."""
        for fault in faults:
            self.fault(key, fault, kind="plugin")
        return bool(faults)

    def _note_others(self, chosen: Component, name: str) -> None:
        """Say which component a short name stands for, where other plugins offer it, too."""
        others = [item.id for item in self.plugins.offers(chosen.kind, name) if item != chosen]
        if others:
            note = f"{chosen.kind} '{name}' is sslkit's own {chosen.id}; write the whole id for {' or '.join(others)}"
            self.notes += [] if note in self.notes else [note]

    def options(self, maker: Any, table: Choice, key: tuple[str, ...], name: str) -> dict[str, Any] | None:
        """Validate a component's options; invalid ones are left out, to find further problems in the rest.

        Args:
            maker: The class or function whose signature defines the options.
            table: The recipe table that sets the options.
            key: Key path of that table.
            name: Name of the component, for messages.

        Returns:
            The options with every default, or None when the rest is not a valid set of options.
        """
        with isolated(lambda error: self.fault(key, _unchecked(name, error), kind="plugin")):
            return self._valid(schema(maker), table, key)
        return None

    def _valid(self, model: type[BaseModel], table: Choice, key: tuple[str, ...]) -> dict[str, Any] | None:
        options, problems = validate(model, table.options, key, sorted(type(table).model_fields))
        if problems:
            self.problems += problems
            if not all(map(_is_surplus, problems)):
                self.faulty.add(key)
            invalid = {problem.key[len(key)] for problem in problems if len(problem.key) > len(key)}
            valid = {option: value for option, value in table.options.items() if option not in invalid}
            options, problems = validate(model, valid, key)
        return None if problems else options

    def build(self, configured: ConfiguredComponent | None, key: tuple[str, ...], *wiring: Any) -> Any:
        """Build a component on the meta device, and check what it declares.

        A ValueError from its constructor is a problem in the recipe.
        """
        if configured is None:
            return None
        try:
            with torch.device("meta"):
                built = configured.component.cls(*wiring, **configured.options)
        except ValueError as error:
            if not self.is_faulty(*key):
                self.fault(key, f"{configured.component.id}: {error}")
        except BaseException as error:  # a third party's constructor may raise anything
            if not is_failure(error):
                raise
            self.fault(key, failure(configured.component, "__init__", error), kind="plugin")
        else:
            return None if self._broken(instance_faults(configured.component, built), key) else built
        return None

    def example(self, kind: str) -> str:
        """Return an inline table for hints, such as `{ use = "mine/head" }`, from a component with an `example`."""
        for component in self.plugins.declaring(kind, "example"):
            return toml.inline({"use": component.id, **component.cls.example})
        return '{ use = "..." }'


def _unchecked(name: str, error: BaseException) -> str:
    return f"the options of {name} cannot be checked: {describe(error)}\n    {place_of(error)}"


def _is_surplus(problem: Problem) -> bool:
    """Return whether an option is unknown and meant for another component: then no other one has a wrong value."""
    return problem.what.startswith("unknown option") and "did you mean" not in problem.what
