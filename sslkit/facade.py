"""The Python interface: load a recipe, plan it, train it, ablate it, probe it, and use its backbone.

A function does what the command of the same name does, with Python values. `import sslkit` offers all of them without
importing torch; this module is imported when one of them is first used.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslkit import targets
from sslkit.errors import RecipeError, UsageError, closest
from sslkit.planning.options import schema, validate
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View
from sslkit.planning.recipe_file import RecipeFile
from sslkit.planning.toml import inline
from sslkit.plugins import Plugins
from sslkit.progress import bar, make_console

if TYPE_CHECKING:
    from sslkit.ablation.results import Results
    from sslkit.api import Objective
    from sslkit.networks.cost import Cost
    from sslkit.networks.inference import NormalisedBackbone
    from sslkit.probes.evaluate import ProbeScores
    from sslkit.training.options import RunOptions
    from sslkit.training.trainer import Result


def load(recipe: str | Path, set: Mapping[str, Any] | None = None) -> RecipeFile:  # noqa: A002
    """Find and read a recipe.

    Args:
        recipe: A recipe's name or path, or the folder of a run.
        set: Dotted key -> value that takes its place, as in `{"optimizer.base_lr": 0.1}`; recorded with a run.

    Raises:
        RecipeError: The recipe is not found, or is not valid TOML.
        UsageError: A key of `set` leads through something that is not a table.
    """
    return targets.read(str(recipe), _sets(set), Plugins.load())


def plan(recipe: RecipeFile | str | Path) -> Plan:
    """Plan a recipe: everything that it builds, with every size.

    Raises:
        RecipeError: With every problem of the recipe; PluginError when all of them are the plugins'.
    """
    file = recipe if isinstance(recipe, RecipeFile) else load(recipe)
    checked = targets.check(file, Plugins.load(), data=False, announce=False)
    if error := checked.error():
        raise error
    assert checked.plan is not None
    return checked.plan


def cost(recipe: Plan | RecipeFile | str | Path) -> Cost:
    """Return what a plan costs: operations per image, and parameters of the online and the target network.

    Raises:
        RecipeError: With every problem of the recipe; PluginError when all of them are the plugins'.
    """
    from sslkit.networks.cost import measure

    return measure(recipe if isinstance(recipe, Plan) else plan(recipe))


def _refuse_import_by_helper() -> None:
    """Refuse to work while a helper process imports the user's script.

    Raises:
        UsageError: The calls of the script are not under a guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError('helper processes import this script: put its calls under `if __name__ == "__main__":`')


def train(
    recipe: Plan | RecipeFile | str | Path, runs: str | Path = "runs", arm: str = "full", **options: Any
) -> Result:
    """Train a plan in `runs/RECIPE/ARM-sSEED`, or resume it there; a run that is finished is only read.

    Args:
        recipe: A plan, or a recipe to plan.
        runs: Folder of all runs.
        arm: Name of this variant of the recipe.
        options: Options of `sslkit run`, such as `workers=4` or `save_every=500`. Several devices need the command.

    Raises:
        DataError: Images or proposals are missing, with the command that provides them.
        DivergedError: A loss or gradient is not finite, or the features collapsed.
        UsageError: An option is unknown, or another process trains in the same folder.
    """
    from sslkit.storage.run_folder import RunFolder
    from sslkit.training import trainer

    _refuse_import_by_helper()
    planned = recipe if isinstance(recipe, Plan) else plan(recipe)
    file = planned.recipe_file
    if file is None:
        raise UsageError("the plan was not made by sslkit.plan, and has no recipe file")
    folder = RunFolder.of(Path(runs), file.name, arm, planned.recipe.seed)
    return trainer.train(planned, file, Plugins.load(), folder, _options(options))


def ablate(
    recipe: RecipeFile | str | Path, *, drop: Sequence[str] = (), add: Sequence[str] = (), swap: Sequence[str] = (),
    vary: Sequence[str] = (), arm: Sequence[str] = (), drop_each: bool = False, factorial: bool = False,
    seeds: int = 1, jobs: int = 1, runs: str | Path = "runs", out: str | Path | None = None, **options: Any,
) -> Results:  # fmt: skip
    """Train variants of a recipe beside it on the same seeds; write their tables, figure and report, and print the table.

    Args:
        recipe: The full recipe.
        drop: An arm without these objectives, for each "NAME" or "NAME,NAME".
        add: An arm with one more objective, for each "NAME" or "NAME={...}".
        swap: An arm with B in place of A, for each "A=B".
        vary: An arm for each value, for each "KEY=VALUE,VALUE".
        arm: An arm with several changes, for each "NAME: CHANGES".
        drop_each: One arm without each objective.
        factorial: One arm for every subset of the objectives.
        seeds: Seeds of every arm, counted from the recipe's own.
        jobs: Runs at a time, each in a process of its own.
        runs: Folder of all runs; finished ones are reused.
        out: Folder of the report; `runs/RECIPE/ablation-...` by default.
        options: Of each run, as in `train`.

    Returns:
        The results: arms with their runs, and each run's scores and costs.

    Raises:
        PreemptedError: Some runs were stopped; the same call resumes them.
        SslkitError: Some runs failed.
    """
    from sslkit import report
    from sslkit.ablation import execute
    from sslkit.ablation.arm_planner import make_arms
    from sslkit.ablation.collect import collect_results
    from sslkit.ablation.plan import plan_ablation
    from sslkit.ablation.requests import ArmRequests

    _refuse_import_by_helper()
    run_options, plugins = _options(options), Plugins.load()
    file = recipe if isinstance(recipe, RecipeFile) else load(recipe)
    full = plan(file)
    targets.require_data(full, file)
    requests = ArmRequests(drop, add, swap, vary, arm, drop_each, factorial)
    arms = make_arms(file, full, plugins, requests)
    ablation = plan_ablation(file, arms, full.recipe.seed, seeds, Path(runs), plugins)
    ablation.write_recipes()
    execute.train_runs(ablation, run_options, jobs, _say)
    results = collect_results(ablation, f"sslkit.ablate({file.origin!r}, ...)")
    report.write(results, Path(out) if out else execute.report_folder(Path(runs), ablation))
    report.print_results(results)
    execute.check_finished(ablation)
    return results


def probe(
    weights: str | Path, recipe: RecipeFile | str | Path | None = None, *, probes: Sequence[str] = (),
    backbone: str | None = None, set: Mapping[str, Any] | None = None, references: bool = False,  # noqa: A002
    accelerator: str = "auto",
) -> dict[str, ProbeScores]:  # fmt: skip
    """Measure the frozen backbone of a run, or of a weights file, with kNN, a linear classifier, and others.

    Args:
        weights: A run's folder, or a weights file.
        recipe: Where the probes are, and for a file the backbone; a run has its own.
        probes: Names of those to measure; all of the recipe's by default.
        backbone: The backbone that a file's weights belong to, such as "resnet50".
        set: As in `load`.
        references: Whether to measure raw pixels and random weights as well.
        accelerator: "auto", "cpu", "cuda" or "mps".

    Returns:
        Name of the features -> probe -> metric -> value. Nothing is written.

    Raises:
        DataError: The weights do not fit the backbone, or images or labels are missing.
        UsageError: Nothing says what to measure.
    """
    from sslkit.probes.measure import BackboneWeights, measure
    from sslkit.storage.run_folder import RunFolder
    from sslkit.training.hardware import torch_device

    _refuse_import_by_helper()
    run = Path(weights) if Path(weights).is_dir() else None
    file = load(recipe, set) if isinstance(recipe, (str, Path)) else recipe
    origin, sets = (file.origin, [*file.overrides.values()]) if file else (None, [])
    probing = targets.load_probes(run, origin, backbone, probes, [*sets, *_sets(set)], Plugins.load())
    tensors = BackboneWeights.of_run(RunFolder(run)) if run else BackboneWeights.of_file(Path(weights), "")
    with bar() as progress:
        measurement = measure(
            probing, tensors, torch_device(accelerator), progress, references=references,
            warn=_say,
        )  # fmt: skip
    return dict(measurement.probes)


def backbone(weights: str | Path, name: str | None = None, **options: Any) -> NormalisedBackbone:
    """Return the backbone of a run, or of a weights file, as a plain module in evaluation mode.

    It takes RGB images (b 3 h w), uint8 or in [0, 1], and normalises them itself; it returns features (b f).

    Args:
        weights: A run's folder, or a weights file.
        name: The backbone that a file's weights belong to, such as "resnet50"; a run has its own.
        options: Of that backbone, as in a recipe: `width=32`.

    Raises:
        DataError: The weights do not fit.
        UsageError: A file's backbone is not named, or a run's is.
    """
    from sslkit.networks.inference import NormalisedBackbone
    from sslkit.probes.measure import BackboneWeights
    from sslkit.storage.key_match import load_into
    from sslkit.storage.run_folder import RunFolder

    if Path(weights).is_dir() == bool(name):
        wrong = (
            "is a run, which has a backbone of its own" if name else "is a file: name its backbone, as in 'resnet50'"
        )
        raise UsageError(f"{weights} {wrong}")
    if name is None:
        planned = plan(load(weights))
        built, view = planned.backbone.make(), planned.probing.view
        tensors = BackboneWeights.of_run(RunFolder(Path(weights)))
    else:
        built, view = _build("backbone", name, options), View()
        tensors = BackboneWeights.of_file(Path(weights), "")
    load_into(built, tensors.tensors, tensors.origin, tensors.prefix)
    return NormalisedBackbone(built, view.mean, view.std).eval()


def objective(name: str, dims: Mapping[str, int], **options: Any) -> Objective:
    """Build an objective as a plain module: called with the tensors that its `requires` names, it returns its loss.

    Args:
        name: Its id, or its short name where that is unambiguous: "univip/scene-scene".
        dims: Sizes of the axes in its `requires`, such as `{"v": 2, "d": 256}`.
        options: As in a recipe.

    Raises:
        PluginError: No plugin offers it.
        RecipeError: An option is unknown or out of range.
    """
    module: Objective = _build("objective", name, options, dims)
    return module


def _build(kind: str, name: str, options: Mapping[str, Any], *wiring: Any) -> Any:
    """Build a component with checked options."""
    component = Plugins.load().find(kind, name)
    checked, problems = validate(schema(component.cls), options, ())
    if problems:
        raise RecipeError("\n".join(f"{component.id}: {problem.what}" for problem in problems), problems)
    return component.cls(*wiring, **checked)


def _say(line: str) -> None:
    """Show a message, where progress is shown."""
    make_console(stderr=True).print(line, markup=False, soft_wrap=True)


def _sets(values: Mapping[str, Any] | None) -> list[str]:
    """Write overrides as the command line does."""
    return [f"{key}={inline(value)}" for key, value in (values or {}).items()]


def _options(values: Mapping[str, Any]) -> RunOptions:
    """Return the options of a run.

    Raises:
        UsageError: An option is unknown.
    """
    from sslkit.training.options import RunOptions

    known = [field.name for field in fields(RunOptions)]
    unknown = [name for name in values if name not in known]
    if unknown:
        hint = closest(unknown[0], known) or f"; known: {', '.join(known)}"
        raise UsageError(f"unknown option '{unknown[0]}'{hint}")
    return RunOptions(**values)
