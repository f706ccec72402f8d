"""The Python interface: load a recipe, plan it, train it, ablate it, probe it, and use its backbone.

A function does what the command of the same name does, with Python values. Messages name options as the command does:
`--save-every 5` is `save_every=5` here. `import sslkit` offers all functions without importing torch; this module is
imported when one of them is first used.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslkit import targets
from sslkit.errors import UsageError
from sslkit.files import make_folder
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View
from sslkit.planning.recipe_file import RecipeFile, write_overrides
from sslkit.planning.toml import plain
from sslkit.plugins import Plugins
from sslkit.progress import bar, notify
from sslkit.storage.run_folder import RECIPE, RunFolder, run_at

if TYPE_CHECKING:
    from sslkit.ablation.results import Results
    from sslkit.api import Objective
    from sslkit.networks.cost import Cost
    from sslkit.networks.inference import NormalisedBackbone
    from sslkit.probes.evaluate import ProbeScores
    from sslkit.training.result import Result

    Recipe = Plan | RecipeFile | str | Path
    Words = str | Sequence[str]


def load(recipe: str | Path, set: Mapping[str, Any] | None = None) -> RecipeFile:  # noqa: A002
    """Find and read a recipe.

    Args:
        recipe: A recipe's name or path, or the folder of a run.
        set: Dotted key -> value that takes its place, as in `{"optimizer.base_lr": 0.1}`; recorded with a run.

    Raises:
        RecipeError: The recipe is not found, or is not valid TOML.
        UsageError: A key of `set` leads through something that is not a table, or TOML has no such value.
    """
    if not isinstance(recipe, (str, Path)):
        raise UsageError(f"a recipe is a name, a path or what sslkit.load returns, not {type(recipe).__name__}")
    return targets.read(str(recipe), write_overrides(set), Plugins.load())


def plan(recipe: Recipe) -> Plan:
    """Plan a recipe: everything that it builds, with every size. `print(plan.summary())` shows it.

    Args:
        recipe: A recipe's name or path, or what `load` returns. A plan is returned as it is.

    Raises:
        RecipeError: With every problem of the recipe; PluginError when all of them are the plugins'.
    """
    if isinstance(recipe, Plan):
        return recipe
    checked = targets.check(_recipe_file(recipe), Plugins.load(), data=False, announce=False)
    if error := checked.error():
        raise error
    assert checked.plan is not None
    return checked.plan


def cost(recipe: Recipe) -> Cost:
    """Return the cost of a step per image: operations, parameters of both networks, and memory of activations.

    Raises:
        RecipeError: With every problem of the recipe; PluginError when all of them are the plugins', or when a
            component fails on noise.
    """
    from sslkit.networks.cost import measure

    return measure(plan(recipe))


def train(recipe: Recipe, runs: str | Path = "runs", arm: str | None = None, **options: Any) -> Result:
    """Train a recipe in `runs/RECIPE/ARM-sSEED`, or resume it there; a run that is finished is only read.

    Args:
        recipe: A recipe or a plan. The recipe of a run's folder is resumed in that folder, unless `arm` is written.
        runs: Folder of all runs.
        arm: Name of this variant of the recipe; "full" by default.
        options: Options of `sslkit run`, such as `workers=4` or `save_every=500`. Several devices need the command.

    Raises:
        DataError: Images or proposals are missing, with the command that provides them.
        DivergedError: A loss or gradient is not finite, or the features collapsed.
        PreemptedError: The run was interrupted; the same call resumes it.
        RecipeError: The recipe has problems, or the folder holds a run of a different recipe.
        UsageError: An option is unknown or invalid, or another process trains in the same folder.
    """
    from sslkit.training import trainer
    from sslkit.training.options import check_options

    _refuse_import_by_helper()
    if options.get("devices", 1) not in (1, "1", "auto") or options.get("nodes", 1) != 1:
        raise UsageError("sslkit.train uses one device; for several write the command: sslkit run RECIPE --devices 8")
    run_options = check_options({**options, "devices": "1"})
    planned = plan(recipe)
    file = _recipe_file(planned)
    targets.require_data(planned, file)
    return trainer.train(planned, file, Plugins.load(), _folder(file, Path(runs), arm, planned), run_options)


def ablate(
    recipe: Recipe, *, drop: Words = (), add: Words = (), swap: Words = (), vary: Words = (), arm: Words = (),
    drop_each: bool = False, factorial: bool = False, seeds: int = 1, jobs: int = 1, runs: str | Path = "runs",
    out: str | Path | None = None, **options: Any,
) -> Results:  # fmt: skip
    """Train variants of a recipe on the same seeds, write tables, figure and report, and print the table.

    Args:
        recipe: The full recipe.
        drop: An arm without these objectives, for each "NAME" or "NAME,NAME".
        add: An arm with one more objective, for each "NAME" or "NAME={...}".
        swap: An arm with B in place of A, for each "A=B".
        vary: An arm for each value, for each "KEY=VALUE,VALUE".
        arm: An arm with several changes, for each "NAME: CHANGES".
        drop_each: One arm without each objective.
        factorial: One arm for every non-empty subset of the objectives.
        seeds: Seeds of every arm, counted from the recipe's own.
        jobs: Runs at a time, each in a process of its own.
        runs: Folder of all runs; finished ones are reused.
        out: Folder of the report; `runs/RECIPE/ablation-...` by default.
        options: Of each run, as in `train`; here `devices=2` trains each run on two devices.

    Returns:
        The results: arms with their runs, and each run's scores and costs.

    Raises:
        SslkitError: Some runs failed, or were stopped; the same call resumes them.
        UsageError: No arm is requested, or a request or an option is invalid.
    """
    from sslkit import report
    from sslkit.ablation import execute
    from sslkit.ablation.arm_planner import make_arms
    from sslkit.ablation.collect import collect_results
    from sslkit.ablation.plan import plan_ablation
    from sslkit.ablation.requests import ArmRequests
    from sslkit.training.options import check_options

    _refuse_import_by_helper()
    if min(seeds, jobs) < 1:
        raise UsageError(f"seeds = {seeds}, jobs = {jobs}: both must be at least 1")
    run_options, plugins, full = check_options(options), Plugins.load(), plan(recipe)
    file = _recipe_file(full)
    drop, add, swap, vary, arm = (_words(item) for item in (drop, add, swap, vary, arm))
    arms = make_arms(file, full, plugins, ArmRequests(drop, add, swap, vary, arm, drop_each, factorial))
    ablation = plan_ablation(file, arms, full.recipe.seed, seeds, Path(runs), plugins)
    targets.require_data(full, file)
    folder, option = (Path(out), "out=") if out else (execute.report_folder(Path(runs), ablation), "runs=")
    make_folder(folder, option)
    ablation.write_recipes()
    execute.train_runs(ablation, run_options, jobs, notify)
    results = collect_results(ablation, f"sslkit.ablate({file.origin!r}, ...)")
    report.write(results, folder)
    report.print_results(results)
    execute.check_finished(ablation)
    return results


def probe(
    weights: str | Path, recipe: Recipe | None = None, *, probes: Words = (), backbone: str | None = None,
    set: Mapping[str, Any] | None = None, prefix: str = "", key: str = "", allow_partial: bool = False,  # noqa: A002
    references: bool = False, recalibrate: bool = False, accelerator: str = "auto",
) -> dict[str, ProbeScores]:  # fmt: skip
    """Measure the frozen backbone of a run, or of a weights file, with kNN, a linear classifier, and others.

    Args:
        weights: A run's folder, or a weights file.
        recipe: Where the probes are, and for a file the backbone; a run has its own.
        probes: Names of those to measure; all of the recipe's by default.
        backbone: The backbone that a file's weights belong to, such as "resnet50".
        set: As in `load`.
        prefix: Use only the keys of a weights file that start with this.
        key: The state dict to read from a file with several, such as "teacher" or "model.teacher".
        allow_partial: Continue when only some of the weights fit.
        references: Whether to measure raw pixels and random weights as well.
        recalibrate: Whether to take batch norm statistics from each probe's training crops: "trained, calibrated".
        accelerator: "auto", "cpu", "cuda" or "mps".

    Returns:
        Name of the features -> probe -> metric -> value. Nothing is written.

    Raises:
        DataError: The weights are not found or do not fit, or images or labels are missing.
        UsageError: The backbone or the probes are missing or unknown, or there is no batch norm to recalibrate.
    """
    from sslkit.probes.measure import BackboneWeights, measure
    from sslkit.training.hardware import torch_device

    _refuse_import_by_helper()
    run = run_at(Path(weights), refused={"backbone": backbone, "prefix": prefix, "key": key})
    file = _recipe_file(recipe) if recipe is not None else None
    origin, sets = (file.origin, list(file.overrides.values())) if file else (None, [])
    names, sets = _words(probes), [*sets, *write_overrides(set)]
    probing = targets.load_probes(run.path if run else None, origin, backbone, names, sets, Plugins.load())
    tensors = BackboneWeights.of(run, Path(weights), probing.backbone.make, prefix, key)
    with bar() as show:
        device = torch_device(accelerator)
        measured = measure(probing, tensors, device, show, allow_partial, references, recalibrate, warn=notify)
        return dict(measured.probes)


def backbone(
    weights: str | Path, name: str | None = None, *, prefix: str = "", key: str = "", **options: Any
) -> NormalisedBackbone:
    """Return the backbone of a run, or of a weights file, as a plain module in evaluation mode.

    It takes RGB images (b 3 h w), uint8 or in [0, 1], and normalises them itself; it returns features (b f).

    Args:
        weights: A run's folder, or a weights file.
        name: The backbone that a file's weights belong to, such as "resnet50"; a run has its own.
        prefix: Use only the keys of a weights file that start with this.
        key: The state dict to read from a file with several, such as "teacher" or "model.teacher".
        options: Of that backbone, as in a recipe: `width=32`.

    Raises:
        DataError: The weights are not found, or do not fit.
        PluginError: No plugin offers the backbone.
        RecipeError: An option of the backbone is unknown or out of range.
        UsageError: A file's backbone is not named, or a run's is.
    """
    from sslkit.networks.inference import NormalisedBackbone
    from sslkit.planning.standalone import build
    from sslkit.probes.measure import BackboneWeights
    from sslkit.weights import load_into

    run = run_at(Path(weights), refused={"name": name, "prefix": prefix, "key": key, **options})
    if run:
        planned = plan(load(weights))
        module, view, tensors = planned.backbone.make(), planned.probing.view, BackboneWeights.of_run(run)
    elif name:
        module, view = build("backbone", name, plain(options, name), Plugins.load()), View()
        tensors = BackboneWeights.of_file(Path(weights), lambda: module, prefix, key)
    else:
        raise UsageError(f"{weights} is a weights file: write the backbone that it belongs to, such as 'resnet50'")
    load_into(module, tensors.tensors, tensors.origin, tensors.prefix)
    return NormalisedBackbone(module, view.mean, view.std).eval()


def objective(name: str, dims: Mapping[str, int], **options: Any) -> Objective:
    """Build an objective as a plain module: called with the tensors that its `requires` names, it returns its loss.

    Args:
        name: Its id, or its short name where that is unambiguous: "univip/scene-scene".
        dims: Sizes of the axes in its `requires`, such as `{"v": 2, "d": 256}`.
        options: As in a recipe.

    Raises:
        PluginError: No plugin offers it.
        RecipeError: A size is missing or too small, or an option is unknown or out of range.
    """
    from sslkit.planning.standalone import build_objective

    module: Objective = build_objective(name, dims, plain(options, name), Plugins.load())
    return module


def _refuse_import_by_helper() -> None:
    """Refuse to work while a helper process imports the user's script, whose calls are then not under a guard."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError('helper processes import this script: put its calls under `if __name__ == "__main__":`')


def _recipe_file(recipe: Recipe) -> RecipeFile:
    """Return the recipe as it was written.

    Raises:
        UsageError: A plan was not made from a file.
    """
    if isinstance(recipe, Plan):
        if recipe.recipe_file is None:
            raise UsageError("this plan has no recipe file: make it with sslkit.plan")
        return recipe.recipe_file
    return recipe if isinstance(recipe, RecipeFile) else load(recipe)


def _folder(file: RecipeFile, runs: Path, arm: str | None, planned: Plan) -> RunFolder:
    """Return the folder to train in: that of the recipe where the recipe is a run's, named ARM-sSEED."""
    origin = Path(file.origin)
    if arm is None and origin.name == RECIPE and re.search(r"-s\d+$", origin.absolute().parent.name):
        return RunFolder(origin.parent)
    return RunFolder.of(runs, file.name, arm or "full", planned.recipe.seed)


def _words(value: Words) -> list[str]:
    """Return several words; a string is a single one."""
    return [value] if isinstance(value, str) else list(value)
