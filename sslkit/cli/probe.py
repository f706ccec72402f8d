"""`sslkit probe`: measure the backbone of a run, or of a weights file, with the probes of a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_message
from sslkit.errors import UsageError, closest
from sslkit.plugins import Plugins

if TYPE_CHECKING:
    import torch

    from sslkit.planning.plan import ProbingPlan
    from sslkit.planning.recipe_file import RecipeFile


def probe(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN|WEIGHTS", help="A run's folder, or a weights file.")],
    only: Annotated[
        list[str] | None, typer.Option("--probe", metavar="NAME", help="Use only this probe; repeatable.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe to take [probes] from, and for a weights file [backbone], too; a run has its own recipe."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The backbone that a file's weights belong to, such as resnet50.")
    ] = None,
    sets: opt.Sets = None,
    prefix: Annotated[str, typer.Option(help="Use only the keys of a weights file that start with this.")] = "",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Continue when only a part of the weights fits.")
    ] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Measure raw pixels and random weights as well.")
    ] = False,
    accelerator: opt.Accelerator = "auto",
    as_json: opt.Json = False,
) -> None:
    """Measure the frozen backbone of a run or a weights file.

    Probes are those of the recipe: kNN, a linear classifier, and others.
    """
    plugins = loaded_plugins(context)
    is_run = Path(target).is_dir()
    _check_target(target, is_run, backbone, prefix)
    text = _recipe_file(target if is_run else None, recipe, backbone, sets or [], plugins)
    _select_probes(text, only or [], plugins)
    plan, device = _plan(text, plugins), _device(accelerator)
    from sslkit.cli.show.runs import describe_measurement, print_measurement
    from sslkit.cli.show.tables import print_json
    from sslkit.probes.measure import BackboneWeights, measure
    from sslkit.progress import bar
    from sslkit.storage.run_folder import RunFolder

    folder = RunFolder(Path(target)) if is_run else None
    weights = BackboneWeights.of_run(folder) if folder else BackboneWeights.of_file(Path(target), prefix)
    with bar() as progress:
        measurement = measure(plan, weights, device, progress, allow_partial, references, print_message)
    if folder and folder.busy:
        print_message("the run is still training: its folder was left alone, and these scores were not written")
    elif folder:
        measurement = measurement.save(folder, _note(recipe, sets or []))
    print_json(describe_measurement(measurement)) if as_json else print_measurement(measurement)


def _check_target(target: str, is_run: bool, backbone: str | None, prefix: str) -> None:
    """Check that a folder is a run's, and that no option of weights files is given for a run.

    Raises:
        UsageError: The folder is not a run's, or an option is for weights files.
    """
    from sslkit.storage.run_folder import RunFolder

    if not is_run:
        return
    file = RunFolder(Path(target)).recipe
    if not file.is_file():
        raise UsageError(
            f"{target} is not a run's folder: {file.name} is missing; write a run's folder or a weights file"
        )
    if backbone or prefix:
        option = "--backbone" if backbone else "--prefix"
        raise UsageError(f"{option} is for weights files, and {target} is a run's folder")


def _recipe_file(
    run: str | None, recipe: str | None, backbone: str | None, sets: Sequence[str], plugins: Plugins
) -> RecipeFile:
    """Return the recipe with the probes and the backbone; backbone and seed of a run are its own."""
    from sslkit import targets
    from sslkit.planning.recipe_file import parse

    sets = [*([f'backbone={{use="{backbone}"}}'] if backbone else []), *sets]
    if recipe is None and run is None:
        return parse("", "probe", "the command line", sets)
    text = targets.read(recipe or str(run), sets, plugins)
    if recipe and run:
        own = targets.read(run, [], plugins).values
        text.values.update({key: own[key] for key in ("backbone", "seed") if key in own})
    return text


def _select_probes(text: RecipeFile, only: Sequence[str], plugins: Plugins) -> None:
    """Remove all probes but those in `only`; a probe that the recipe does not have is added with its defaults.

    Raises:
        UsageError: A probe is unknown, no probe is left, or the backbone is missing.
    """
    probes: dict[str, Any] = text.values.setdefault("probes", {})
    installed = {id_.partition("/")[2] for id_ in plugins.components["probe"]}
    for name in only:
        known = {*probes, *installed}
        if name not in known:
            hint = closest(name, known) or f"; known probes: {', '.join(sorted(known))}"
            raise UsageError(f"--probe {name}: unknown probe{hint}")
        probes.setdefault(name, {})
    if only:
        text.values["probes"] = {name: probes[name] for name in only}
    if not text.values["probes"]:
        options = " ".join(f"--probe {name}" for name in sorted(installed))
        raise UsageError(f"nothing to measure: {text.origin} has no [probes]; write {options}")
    if "backbone" not in text.values:
        raise UsageError("the backbone of these weights is unknown: write --backbone resnet50, or --recipe RECIPE")


def _plan(text: RecipeFile, plugins: Plugins) -> ProbingPlan:
    """Plan the probes of a recipe.

    Raises:
        RecipeError: With every problem; PluginError or DataError when all of them are of that kind.
    """
    from sslkit.planning.options import parsed, validate
    from sslkit.planning.recipe import ProbeRecipe
    from sslkit.targets import Checked, missing_data

    values = {key: value for key, value in text.values.items() if key in ProbeRecipe.model_fields}
    _, problems = validate(ProbeRecipe, values, ())
    plan: ProbingPlan | None = None
    if not problems:
        from sslkit.planning.probes import plan_probes

        plan, problems = plan_probes(parsed(ProbeRecipe, values), plugins)
    if plan and not problems:
        problems = missing_data(plan.probes)
    if error := Checked(text, problems=problems).error():
        raise error
    assert plan is not None
    return plan


def _device(accelerator: str) -> torch.device:
    """Return the device of an accelerator."""
    import torch

    auto = "cuda" if torch.cuda.is_available() else "cpu"
    names = {"auto": auto, "gpu": "cuda", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}
    if accelerator not in names:
        raise UsageError(f"--accelerator {accelerator}: write auto, cpu, cuda or mps{closest(accelerator, names)}")
    return torch.device(names[accelerator])


def _note(recipe: str | None, sets: Sequence[str]) -> str:
    """Return a suffix that tells scores of other settings from the run's own; empty for the run's own settings."""
    parts = [*(["--recipe", recipe] if recipe else []), *sets]
    return f" ({shlex.join(parts)})" if parts else ""
