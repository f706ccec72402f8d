"""Turn the target of a command, a name or a path, into a plan, or into an opened source and its proposer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sslkit.errors import DataError, PluginError, Problem, RecipeError, SslkitError, UsageError, closest
from sslkit.planning import recipe_file as files
from sslkit.planning.options import parsed, validate
from sslkit.planning.partial import repaired
from sslkit.planning.recipe import ProbeRecipe
from sslkit.planning.recipe_file import RecipeFile, check_structure, format_problems
from sslkit.plugins import Plugins
from sslkit.storage.run_folder import RECIPE, is_run

if TYPE_CHECKING:
    from sslkit.api import Proposer, Source
    from sslkit.planning.plan import ConfiguredComponent, Plan, ProbePlan, ProbingPlan


@dataclass
class Checked:
    """A recipe, its problems, and its plan when there are none.

    Attributes:
        announced: Those of the problems that the user has been shown already.
    """

    recipe_file: RecipeFile
    plan: Plan | None = None
    problems: list[Problem] = field(default_factory=list)
    announced: Sequence[Problem] = ()

    def error(self) -> SslkitError | None:
        """Return one error with all problems and the exit code of the most serious kind; None without problems."""
        if not self.problems:
            return None
        kinds = {problem.kind for problem in self.problems}
        count = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        more = [problem for problem in self.problems if problem not in self.announced]
        above = ", shown above" if not more else f", {len(self.announced)} of them above" if self.announced else ""
        listing = [":", format_problems(self.recipe_file, more)] if more else [""]
        message = f"{self.recipe_file.origin} has {count}{above}" + "\n".join(listing)
        if "recipe" in kinds:
            return RecipeError(message, self.problems)
        return PluginError(message) if "plugin" in kinds else DataError(message)


# ----------------------------------------------------------------------------------------------------- recipes


def read(name: str, sets: Sequence[str], plugins: Plugins) -> RecipeFile:
    """Find and parse a recipe: by path, by name, or the one in a run's folder."""
    if is_run(name):
        return files.read(Path(name) / RECIPE, sets)
    known = files.shipped_recipes() | plugins.recipes()
    return files.read(files.locate(name, known), sets)


def check(recipe_file: RecipeFile, plugins: Plugins, data: bool = True, announce: bool = True) -> Checked:
    """Find every problem in a recipe. Structural problems come first, before torch is imported.

    Args:
        recipe_file: The recipe.
        plugins: The plugins that offer its components.
        data: Also check that its images are there.
        announce: Print structural problems at once.
    """
    recipe, problems = check_structure(recipe_file)
    if problems:
        if announce:
            listing = format_problems(recipe_file, problems)
            typer.echo(f"{recipe_file.origin}: structural problems, looking for more\n{listing}", err=True)
        recipe = repaired(recipe_file, problems)
    checked = Checked(recipe_file, problems=list(problems), announced=problems if announce else ())
    if recipe is None:
        return checked
    from sslkit.planning.planner import make_plan

    faulty = [key for problem in problems for key in (problem.key, problem.meant) if key]
    plan, more = make_plan(recipe, plugins, faulty)
    checked.problems += more
    checked.plan = plan if not problems else None
    if plan:
        plan.recipe_file = recipe_file
        checked.problems += _missing(plan) if data else []
    return checked


def load(name: str, sets: Sequence[str], plugins: Plugins, data: bool = False) -> tuple[Plan, RecipeFile]:
    """Return the plan of a recipe.

    Raises:
        RecipeError: The recipe has problems, all listed; PluginError or DataError when all of them are of that kind.
    """
    recipe_file = read(name, sets, plugins)
    checked = check(recipe_file, plugins, data)
    if error := checked.error():
        raise error
    assert checked.plan is not None
    return checked.plan, recipe_file


def require_data(plan: Plan, recipe_file: RecipeFile) -> None:
    """Check that the images of a recipe are there.

    Raises:
        DataError: Images are missing; the message lists every such source.
    """
    if error := Checked(recipe_file, problems=_missing(plan)).error():
        raise error


def _missing(plan: Plan) -> list[Problem]:
    missing = _missing_data(plan.source)
    problems = [Problem(missing, ("source",), kind="data")] if missing else []
    return problems + missing_data(plan.probes, beside=plan.source)


def missing_data(probes: Mapping[str, ProbePlan], beside: ConfiguredComponent | None = None) -> list[Problem]:
    """Return a problem for each source of the probes whose images are missing.

    Args:
        probes: The probes; a source that several of them use is checked once.
        beside: The recipe's source, which the caller has checked.
    """
    checked = [(beside.component.id, beside.options)] if beside else []
    problems = []
    for name, probe in probes.items():
        for key, source in (("source", probe.source), ("test_source", probe.test_source)):
            if source is None or (source.component.id, source.options) in checked:
                continue
            checked.append((source.component.id, source.options))
            if missing := _missing_data(source):
                problems.append(Problem(missing, ("probes", name, key), kind="data"))
    return problems


# ----------------------------------------------------------------------------------------------------- probes


def load_probes(
    run: Path | None, recipe: str | None, backbone: str | None, only: Sequence[str], sets: Sequence[str],
    plugins: Plugins,
) -> ProbingPlan:  # fmt: skip
    """Return the plan of the probes of a run, or of a recipe.

    Args:
        run: A run's folder, which supplies backbone and seed, and without a `recipe` also the probes.
        recipe: A recipe's path or name.
        backbone: Name of the backbone, in place of the recipe's.
        only: Names of the probes to measure; those that the recipe does not have get their defaults. All by default.
        sets: Overrides, as in `--set`.
        plugins: The plugins that offer the components.

    Raises:
        RecipeError: The recipe has problems, all listed; PluginError or DataError when all of them are of that kind.
        UsageError: A probe is unknown, or the backbone or the probes are missing.
    """
    recipe_file = _probe_recipe(run, recipe, backbone, sets, plugins)
    _select_probes(recipe_file, only, plugins)
    values = {key: value for key, value in recipe_file.values.items() if key in ProbeRecipe.model_fields}
    _, problems = validate(ProbeRecipe, values, ())
    plan: ProbingPlan | None = None
    if not problems:
        from sslkit.planning.probes import plan_probes

        plan, problems = plan_probes(parsed(ProbeRecipe, values), plugins)
    if plan and not problems:
        problems = missing_data(plan.probes)
    if error := Checked(recipe_file, problems=problems).error():
        raise error
    assert plan is not None
    return plan


def _probe_recipe(
    run: Path | None, recipe: str | None, backbone: str | None, sets: Sequence[str], plugins: Plugins
) -> RecipeFile:
    """Return the recipe with the probes and the backbone; a run supplies its backbone and seed."""
    sets = [*([f'backbone={{use="{backbone}"}}'] if backbone else []), *sets]
    if recipe is None and run is None:
        return files.parse("", "probe", "the command line", sets)
    recipe_file = read(recipe or str(run), sets, plugins)
    if recipe and run:
        values = read(str(run), [], plugins).values
        recipe_file.values.update({key: values[key] for key in ("backbone", "seed") if key in values})
    return recipe_file


def _select_probes(recipe_file: RecipeFile, only: Sequence[str], plugins: Plugins) -> None:
    """Remove all probes but those in `only`; a probe that the recipe does not have is added with its defaults.

    Raises:
        UsageError: A probe is unknown, no probe is left, or the backbone is missing.
    """
    probes: dict[str, Any] = recipe_file.values.setdefault("probes", {})
    installed = {id_.partition("/")[2] for id_ in plugins.components["probe"]}
    for name in only:
        known = {*probes, *installed}
        if name not in known:
            hint = closest(name, known) or f"; known probes: {', '.join(sorted(known))}"
            raise UsageError(f"--probe {name}: unknown probe{hint}")
        probes.setdefault(name, {})
    if only:
        recipe_file.values["probes"] = {name: probes[name] for name in only}
    if not recipe_file.values["probes"]:
        options = " ".join(f"--probe {name}" for name in sorted(installed))
        raise UsageError(f"nothing to measure: {recipe_file.origin} has no [probes]; write {options}")
    if "backbone" not in recipe_file.values:
        raise UsageError("the backbone of these weights is unknown: write --backbone resnet50, or --recipe RECIPE")


# --------------------------------------------------------------------------------------------- opened sources


def open_target(target: str, sets: Sequence[str], plugins: Plugins | None = None) -> tuple[Source, Proposer]:
    """Open the source of a recipe or a folder of images, and return it with its proposer.

    For a folder the plugins declare both: the source that opens folders, and the proposer that is the default.
    """
    from sslkit.planning.plan import ConfiguredComponent

    plugins = plugins or Plugins.load()
    if is_image_folder(target):
        return open_image_folder(target, plugins), _proposer(ConfiguredComponent(plugins.default_proposer(), {}))
    plan, _ = load(target, sets, plugins)
    if plan.proposer is None:
        raise RecipeError(f"{target} has no [proposals] that its sampler needs")
    return _opened(plan.source), _proposer(plan.proposer)


def open_source(target: str, sets: Sequence[str], plugins: Plugins | None = None) -> Source:
    """Open and return the source of a recipe or a folder of images."""
    plugins = plugins or Plugins.load()
    if is_image_folder(target):
        return open_image_folder(target, plugins)
    plan, _ = load(target, sets, plugins)
    return _opened(plan.source)


def is_image_folder(target: str) -> bool:
    """Return whether a target is a folder of images, and not a run's folder."""
    return os.path.isdir(target) and not is_run(target)  # noqa: PTH112 - Path.is_dir() fails for a long name


def open_image_folder(target: str, plugins: Plugins) -> Source:
    """Open and return a folder of images as a source."""
    from sslkit.planning.plan import ConfiguredComponent

    return _opened(ConfiguredComponent(plugins.folder_source(), {"root": Path(target)}))


def _opened(source: ConfiguredComponent) -> Source:
    from sslkit.data import opening  # imports torch

    return opening.open_source(source)


def _proposer(proposer: ConfiguredComponent) -> Proposer:
    from sslkit.data import opening  # imports torch

    return opening.make_proposer(proposer)


def _missing_data(source: ConfiguredComponent) -> str | None:
    from sslkit.data import opening  # imports torch

    return opening.make_source(source).missing()
