"""`sslkit probe`: from a run or a file of weights, and a recipe's probes, to figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from sslkit.cli.options import Json, Sets, loaded
from sslkit.errors import UsageError, closest
from sslkit.plugins import Plugins

if TYPE_CHECKING:
    from sslkit.planning.plan import Measurement
    from sslkit.planning.recipe import RecipeFile


def probe(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN|WEIGHTS", help="A run's folder, or a file of weights.")],
    only: Annotated[
        list[str] | None, typer.Option("--probe", metavar="NAME", help="Only this one of [probes]; repeatable.")
    ] = None,
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Take [probes] from this recipe (and [backbone], for a file); a run has its own."),
    ] = None,
    backbone: Annotated[Optional[str], typer.Option(help="What a file's weights are of, such as resnet50.")] = None,  # noqa: UP045
    sets: Sets = None,
    prefix: Annotated[str, typer.Option(help="What the keys that are meant begin with, in a file.")] = "",
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Go on with the tensors that fit.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Measure raw pixels and random weights as well.")
    ] = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure the frozen backbone of a run, or of any weights, with kNN, a linear classifier, ..."""
    plugins = loaded(context)
    run = Path(target).is_dir()
    _refuse(target, run, backbone, prefix)
    text = _text(target if run else None, recipe, backbone, sets or [], plugins)
    _choose(text, only or [], plugins)
    plan, device = _plan(text, plugins), _device(accelerator)
    from sslkit.cli import show
    from sslkit.probes import measure
    from sslkit.progress import bar
    from sslkit.storage.run_folder import RunFolder

    folder = RunFolder(Path(target)) if run else None
    given = measure.Weights.of_run(folder) if folder else measure.Weights.of_file(Path(target), prefix)
    with bar() as progress:
        found = measure.measure(plan, given, device, progress, allow_partial, references, _tell)
    if folder and folder.busy:
        _tell("the run is going on, and its folder was left alone: these figures were not written")
    elif folder:
        found = found.kept(folder, _note(recipe, sets or []))
    show.print_json(show.of_measured(found)) if as_json else show.print_measured(found)


def _tell(words: str) -> None:
    typer.echo(words, err=True)


def _refuse(target: str, run: bool, backbone: str | None, prefix: str) -> None:
    from sslkit.targets import RECIPE

    if run and not (Path(target) / RECIPE).is_file():
        raise UsageError(f"{target} is no run: it has no {RECIPE}; write a run's folder, or a file of weights")
    if run and (backbone or prefix):
        raise UsageError(f"--{'backbone' if backbone else 'prefix'} is for a file of weights: {target} is a run")


def _text(
    run: str | None, recipe: str | None, backbone: str | None, sets: Sequence[str], plugins: Plugins
) -> RecipeFile:
    """Return the recipe that says what is measured."""
    from sslkit import targets
    from sslkit.planning.recipe import parse

    sets = [*([f'backbone={{use="{backbone}"}}'] if backbone else []), *sets]
    if recipe is None and run is None:
        return parse("", "probe", "the command line", sets)
    text = targets.read(recipe or str(run), sets, plugins)
    if recipe and run:
        own = targets.read(run, [], plugins).values
        text.values.update({key: own[key] for key in ("backbone", "seed") if key in own})
    return text


def _choose(text: RecipeFile, only: Sequence[str], plugins: Plugins) -> None:
    """Leave the probes that are asked for; one that the recipe does not have is taken with its defaults."""
    probes: dict[str, Any] = text.values.setdefault("probes", {})
    known = {id_.partition("/")[2] for id_ in plugins.components["probe"]}
    for name in only:
        if name not in probes and name not in known:
            hint = closest(name, {*probes, *known}) or f"; there are {', '.join(sorted({*probes, *known}))}"
            raise UsageError(f"--probe {name}: there is no such probe{hint}")
        probes.setdefault(name, {})
    if only:
        text.values["probes"] = {name: probes[name] for name in only}
    if not text.values["probes"]:
        raise UsageError(
            f"nothing to measure: {text.origin} has no [probes]; write --probe {' --probe '.join(sorted(known))}"
        )
    if "backbone" not in text.values:
        raise UsageError("which backbone are these weights of? Write --backbone resnet50, or --recipe RECIPE")


def _plan(text: RecipeFile, plugins: Plugins) -> Measurement:
    """Wire the probes.

    Raises:
        RecipeError: With every problem; PluginError or DataError when all of them are of that kind.
    """
    from sslkit.planning.options import parsed, validate
    from sslkit.planning.recipe import ProbeRecipe
    from sslkit.targets import Checked, missing_data

    values = {key: value for key, value in text.values.items() if key in ProbeRecipe.model_fields}
    _, problems = validate(ProbeRecipe, values, ())
    plan: Measurement | None = None
    if not problems:
        from sslkit.planning.probes import plan_probes

        plan, problems = plan_probes(parsed(ProbeRecipe, values), plugins)
    if plan and not problems:
        problems = missing_data(plan.probes)
    if error := Checked(text, problems=problems).error():
        raise error
    assert plan is not None
    return plan


def _device(accelerator: str) -> Any:
    import torch

    names = {
        "auto": "cuda" if torch.cuda.is_available() else "cpu",
        "gpu": "cuda",
        "cpu": "cpu",
        "cuda": "cuda",
        "mps": "mps",
    }
    if accelerator not in names:
        raise UsageError(f"--accelerator {accelerator}: write auto, cpu, cuda or mps{closest(accelerator, names)}")
    return torch.device(names[accelerator])


def _note(recipe: str | None, sets: Sequence[str]) -> str:
    """Say in what these figures differ from the run's own."""
    parts = [*(["--recipe", recipe] if recipe else []), *sets]
    return f" ({shlex.join(parts)})" if parts else ""
