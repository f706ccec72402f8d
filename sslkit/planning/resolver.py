"""From a table of a recipe to a component with checked options; every problem is collected."""

from __future__ import annotations

from typing import Any

import torch

from sslkit.errors import PluginError, Problem
from sslkit.planning.options import schema, validate
from sslkit.planning.plan import ConfiguredComponent
from sslkit.planning.recipe import Choice
from sslkit.plugins import Plugins


class Resolver:
    """Finds components and collects what is wrong."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.problems: list[Problem] = []

    def fault(self, key: tuple[str, ...], what: str, instead: str = "", kind: str = "recipe") -> None:
        """Note a problem."""
        self.problems.append(Problem(what, key, instead, kind))

    def choose(self, kind: str, table: Choice, key: tuple[str, ...]) -> ConfiguredComponent | None:
        """Find the component that a table names, and check its options."""
        try:
            component = self.plugins.find(kind, table.use)
        except PluginError as error:
            self.fault((*key, "use"), str(error), kind="plugin" if "broken" in str(error) else "recipe")
            return None
        options = self.options(component.cls, table, key, component.id)
        return None if options is None else ConfiguredComponent(component, options)

    def options(self, maker: Any, table: Choice, key: tuple[str, ...], name: str) -> dict[str, Any] | None:
        """Check a component's options; what is wrong is left out, to look for further problems in the rest."""
        try:
            model = schema(maker)
        except (TypeError, NameError) as error:  # the signature itself cannot be read
            self.fault(key, f"the options of {name} cannot be read: {error}", kind="plugin")
            return None
        beside = sorted(type(table).model_fields)
        options, problems = validate(model, table.options, key, beside)
        if problems:
            self.problems += problems
            wrong = {problem.key[len(key)] for problem in problems if len(problem.key) > len(key)}
            right = {option: value for option, value in table.options.items() if option not in wrong}
            options, problems = validate(model, right, key)
        return None if problems else options

    def build(self, made: ConfiguredComponent | None, key: tuple[str, ...], *wiring: Any) -> Any:
        """Make a component on the meta device; its ValueError is the recipe's problem."""
        if made is None:
            return None
        try:
            with torch.device("meta"):
                return made.make(*wiring)
        except ValueError as error:
            self.fault(key, f"{made.component.id}: {error}")
        except Exception as error:  # a foreign constructor may fail in any way
            owner = made.component.owner
            who = f"{made.component.id} of {owner.distribution} {owner.version}"
            self.fault(key, f"{who} cannot be made: {type(error).__name__}: {error}", kind="plugin")
        return None
