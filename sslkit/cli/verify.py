"""`sslkit verify`: whether what a run promises holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sslkit.cli.options import Json, loaded

verify = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show that what a run promises holds.")


@verify.callback()
def _group() -> None:
    """Keep `replay` a sub-command while it is the only one."""


@verify.command()
def replay(
    context: typer.Context,
    record: Annotated[Path, typer.Argument(help="A folder `diverged-step-...` in a run's folder.")],
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[str, typer.Option(help="As many as the run had.")] = "auto",
    strategy: Annotated[str, typer.Option(help="auto, ddp, ...: Lightning Fabric's names.")] = "auto",
    workers: Annotated[Optional[int], typer.Option(min=0, help="Loader processes per device.")] = 0,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Do a step that was not finite again, and name the first module that made something non-finite.

    Ends with code 1 when the figures are not those of the record.
    """
    from sslkit.errors import DataError

    if not (record / "recipe.toml").is_file():
        raise DataError(f"{record} is no flight record: those are folders diverged-step-... in a run's folder")
    plugins = loaded(context)
    from sslkit.cli import targets

    plan, text = targets.load(str(record), [], plugins, data=True)
    from sslkit import report, trainer

    hardware = trainer.Hardware(accelerator, devices, strategy=strategy, workers=workers)
    made = trainer.again(plan, text, plugins, record, hardware)
    if made.rank == 0:
        report.print_json(report.of_replayed(made)) if as_json else report.print_replayed(made)
    if made.differs or not made.same_images:
        raise typer.Exit(1)
