"""`sslkit probe`: measure the backbone of a run, or of a weights file, with the probes of a recipe."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sslkit import targets
from sslkit.cli import options as opt
from sslkit.cli.options import loaded_plugins, print_message
from sslkit.errors import DataError, PluginError, UsageError, closest


def probe(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN|WEIGHTS", help="A run's folder, or a weights file.")],
    only: Annotated[
        list[str] | None, typer.Option("--probe", metavar="NAME", help="Use only this probe; repeatable.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe to take [probes] from, and for a weights file also [backbone]; a run has its own recipe."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The backbone that a file's weights belong to, such as resnet50.")
    ] = None,
    sets: opt.Sets = None,
    prefix: Annotated[str, typer.Option(help="Use only the keys of a weights file that start with this.")] = "",
    key: Annotated[str, typer.Option(metavar="NAME", help="Which state dict of a weights file to read.")] = "",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Continue even if only part of the weights fits.")
    ] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Measure raw pixels and random weights as well.")
    ] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Take batch norm statistics from each probe's training crops.")
    ] = False,
    accelerator: opt.Accelerator = "auto",
    as_json: opt.Json = False,
) -> None:
    """Measure the frozen backbone of a run or a weights file.

    The recipe names the probes: kNN, a linear classifier, and others.
    """
    plugins = loaded_plugins(context)
    is_run = os.path.isdir(target)  # noqa: PTH112 - Path.is_dir() fails for a name that is too long
    _check_target(target, is_run, {"--backbone": backbone, "--prefix": prefix, "--key": key})
    probing = targets.load_probes(Path(target) if is_run else None, recipe, backbone, only or (), sets or (), plugins)
    from sslkit.cli.show.runs import describe_measurement, print_measurement
    from sslkit.cli.show.tables import print_json
    from sslkit.probes.measure import BackboneWeights, measure
    from sslkit.progress import bar
    from sslkit.storage.run_folder import RunFolder
    from sslkit.training.hardware import torch_device

    device = torch_device(accelerator)
    folder = RunFolder(Path(target)) if is_run else None
    weights = BackboneWeights.of(folder, Path(target), probing.backbone.make, prefix, key)
    with bar() as progress:
        measurement = measure(
            probing, weights, device, progress, allow_partial, references, recalibrate, warn=print_message
        )
    if folder and folder.busy:
        print_message("the run is still training: these scores were not written to its folder")
    elif folder:
        measurement = measurement.save(folder, _note(recipe, sets or []))
    print_json(describe_measurement(measurement)) if as_json else print_measurement(measurement)
    if measurement.failed:
        raise PluginError(f"{', '.join(measurement.failed)} failed; the scores of the other probes are complete")


def _check_target(target: str, is_run: bool, for_files: Mapping[str, str | None]) -> None:
    """Check that a folder is a run's folder, and that a run comes without options for weights files.

    Raises:
        DataError: There is nothing at that path.
        UsageError: The folder is not a run's folder, or an option is for weights files only.
    """
    from sslkit.storage.run_folder import RunFolder

    path = Path(target)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() fails for a name that is too long
        names = os.listdir(path.parent) if os.path.isdir(path.parent) else []  # noqa: PTH112, PTH208
        raise DataError(f"no run or weights file found at {target}{closest(path.name, names)}")
    if not is_run:
        return
    file = RunFolder(Path(target)).recipe
    if not file.is_file():
        raise UsageError(
            f"{target} is not a run's folder: {file.name} is missing; write a run's folder or a weights file"
        )
    if used := [option for option, value in for_files.items() if value]:
        raise UsageError(f"{', '.join(used)}: for weights files, and {target} is a run's folder")


def _note(recipe: str | None, sets: Sequence[str]) -> str:
    """Return a suffix that marks scores measured with settings other than the run's; empty for the run's settings."""
    parts = [*(["--recipe", recipe] if recipe else []), *sets]
    return f" ({shlex.join(parts)})" if parts else ""
