"""What a command is asked to work on: from a name on the command line to a plan, or to a source with its proposer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sslkit.errors import DataError, PluginError, Problem, RecipeError, SslkitError
from sslkit.planning import recipe as recipes
from sslkit.plugins import Plugins

if TYPE_CHECKING:
    from sslkit.api import Proposer, Source
    from sslkit.planning.plan import ConfiguredComponent, Plan, ProbePlan


RECIPE = "recipe.toml"
"""In a run's folder: what made it."""


@dataclass
class Checked:
    """A recipe, what is wrong with it, and its plan when nothing is."""

    text: recipes.RecipeFile
    plan: Plan | None = None
    problems: list[Problem] = field(default_factory=list)

    def error(self) -> SslkitError | None:
        """Return the error that says all of it, with the exit code of the gravest kind."""
        if not self.problems:
            return None
        kinds = {problem.kind for problem in self.problems}
        count = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        message = f"{self.text.origin} has {count}:\n{recipes.complaint(self.text, self.problems)}"
        if "recipe" in kinds:
            return RecipeError(message, self.problems)
        return PluginError(message) if "plugin" in kinds else DataError(message)


def read(name: str, sets: Sequence[str], plugins: Plugins) -> recipes.RecipeFile:
    """Find and parse a recipe by path or name, or that of a run's folder."""
    if (Path(name) / RECIPE).is_file():
        return recipes.read(Path(name) / RECIPE, sets)
    known = recipes.shipped() | plugins.recipes()
    return recipes.read(recipes.locate(name, known), sets)


def check(text: recipes.RecipeFile, plugins: Plugins, data: bool = True) -> Checked:
    """Find every problem of a recipe; those of structure come first, and before torch is imported."""
    recipe, problems = recipes.structure(text)
    if problems:
        found = recipes.complaint(text, problems)
        typer.echo(f"{text.origin}: faults of structure, looking for more\n{found}", err=True)
        recipe = _repaired(text, problems)
    checked = Checked(text, problems=list(problems))
    if recipe is None:
        return checked
    from sslkit.planning.planner import make_plan

    plan, more = make_plan(recipe, plugins)
    checked.problems += more
    checked.plan = plan if not problems else None
    if plan and data:
        checked.problems += _missing(plan)
    return checked


def require_data(plan: Plan, text: recipes.RecipeFile) -> None:
    """Make sure that a recipe's images are there.

    Raises:
        DataError: With every source that is missing.
    """
    if error := Checked(text, problems=_missing(plan)).error():
        raise error


def _missing(plan: Plan) -> list[Problem]:
    missing = plan.source.make().missing()
    own = [Problem(missing, ("source",), kind="data")] if missing else []
    return own + missing_data(plan.probes, beside=plan.source)


def missing_data(probes: Mapping[str, ProbePlan], beside: ConfiguredComponent | None = None) -> list[Problem]:
    """Say which images of probes are missing, each source once; `beside` is the recipe's own."""
    seen = [(beside.component.id, beside.options)] if beside else []
    problems = []
    for name, item in probes.items():
        for key, made in (("source", item.source), ("test_source", item.test_source)):
            if made is None or (made.component.id, made.options) in seen:
                continue
            seen.append((made.component.id, made.options))
            if missing := made.make().missing():
                problems.append(Problem(missing, ("probes", name, key), kind="data"))
    return problems


def load(name: str, sets: Sequence[str], plugins: Plugins, data: bool = False) -> tuple[Plan, recipes.RecipeFile]:
    """Return the plan of a recipe.

    Raises:
        RecipeError: With every problem; PluginError or DataError when all of them are of that kind.
    """
    text = read(name, sets, plugins)
    checked = check(text, plugins, data)
    error = checked.error()
    if error:
        raise error
    assert checked.plan is not None
    return checked.plan, text


def open_target(target: str, sets: Sequence[str], plugins: Plugins | None = None) -> tuple[Source, Proposer]:
    """Return the opened source and the proposer of a recipe, or of a folder of photos.

    A folder is read by `folder`, with selective search's defaults.
    """
    plugins = plugins or Plugins.load()
    if is_photos(target):
        return open_photos(target, plugins), plugins.find("proposer", "selective-search").cls()
    plan, _ = load(target, sets, plugins)
    if plan.proposer is None:
        raise RecipeError(f"{target} has no [proposals] that its sampler needs")
    return opened(plan.source.make()), plan.proposer.make()


def open_source(target: str, sets: Sequence[str], plugins: Plugins | None = None) -> Source:
    """Return the opened source of a recipe, or of a folder of photos."""
    plugins = plugins or Plugins.load()
    if is_photos(target):
        return open_photos(target, plugins)
    plan, _ = load(target, sets, plugins)
    source: Source = opened(plan.source.make())
    return source


def is_photos(target: str) -> bool:
    """Say whether a target is a folder of photos, and not that of a run."""
    return Path(target).is_dir() and not (Path(target) / RECIPE).is_file()


def open_photos(target: str, plugins: Plugins) -> Source:
    """Open a folder of photos."""
    source: Source = opened(plugins.find("source", "folder").cls(root=Path(target)))
    return source


def opened(source: Any) -> Any:
    """Make, index and return a source.

    Raises:
        DataError: It is missing.
    """
    from sslkit.progress import bar

    if missing := source.missing():
        raise DataError(missing)
    with bar() as progress:
        source.prepare(progress)
        source.open()
    return source


def _repaired(text: recipes.RecipeFile, problems: Sequence[Problem]) -> recipes.Recipe | None:
    """Return the recipe without its faulty keys, to look for further problems in what is left."""
    values = copy.deepcopy(text.values)
    for problem in problems:
        _remove(values, problem.key)
    _stand_in(values)
    recipe, left = recipes.structure(recipes.RecipeFile(text.name, text.origin, values))
    return recipe if not left else None


def _stand_in(values: dict[str, Any]) -> None:
    """Put values in place of required ones that were faulty or missing: what is said of them has been said."""
    values.setdefault("batch_size", 2)
    if not ("epochs" in values) ^ ("steps" in values):
        values.pop("steps", None)
        values["epochs"] = 1
    if isinstance(values.get("optimizer"), dict):
        values["optimizer"].setdefault("base_lr", 0.1)


def _remove(values: Any, key: tuple[str, ...]) -> None:
    for part in key[:-1]:
        values = (
            values[int(part)]
            if isinstance(values, list) and part.isdecimal()
            else values.get(part, {})
            if isinstance(values, dict)
            else {}
        )
    if key and isinstance(values, dict):
        values.pop(key[-1], None)
