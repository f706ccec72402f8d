"""The commands `sslkit proposals ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[str, typer.Argument(help="A recipe (path or name), or a folder of images.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the recipe: KEY=VALUE.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add(app: typer.Typer) -> None:
    """Add the commands to the plugin's own `app`."""
    app.command("build")(build)
    app.command("import")(import_)
    app.command("stats")(stats)
    app.command("view")(view)


def build(
    target: Target,
    sets: Sets = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=256, help="Number of processes; by default one per core.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Search share I of N (from 0), or `slurm` for the share of this SLURM array task."
        ),
    ] = None,
) -> None:
    """Compute and store the region proposals of all images.

    An interrupted call is resumed by the same command.
    """
    from sslkit.folders import cores
    from sslkit.progress import bar
    from sslkit.targets import open_target
    from sslkit_proposals.shares import build_share
    from sslkit_proposals.stats import report

    source, proposer = open_target(target, sets or [])
    with bar() as progress:
        if shard:
            build_share(source, proposer, shard, progress, jobs or cores())
        else:
            proposer.build(source, progress, jobs or cores())
    missing = proposer.missing(source) if shard else None
    if missing:
        typer.echo(f"share {shard} is done; other shares are not: {missing.splitlines()[0]}")
    else:
        typer.echo("\n".join(report(source, proposer)))


def import_(
    target: Target,
    files: Annotated[list[Path], typer.Argument(metavar="FILE.json...", help="ORL's proposal files.")],
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="COCO annotation file whose image order the proposal files follow; repeatable."),
    ] = None,
    sets: Sets = None,
) -> None:
    """Import raw regions from ORL's published proposal files."""
    from sslkit.progress import bar
    from sslkit.targets import open_target
    from sslkit_proposals.orl import import_orl, summary

    source, proposer = open_target(target, sets or [])
    with bar() as progress:
        result = import_orl(source, proposer, files, annotations or [], progress)
    for line in summary(result):
        typer.echo(line)


def stats(target: Target, sets: Sets = None, as_json: Json = False) -> None:
    """Show the number and sizes of the proposals, and failed images."""
    import json

    from rich.console import Console

    from sslkit.targets import open_target
    from sslkit_proposals.stats import describe, tables

    figures = describe(*open_target(target, sets or []))
    typer.echo(json.dumps(figures, indent=2)) if as_json else Console().print(tables(figures))


def view(
    target: Target,
    out: Annotated[Path, typer.Option(help="Picture to write: PNG, JPEG, WebP or PDF.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images on the sheet.")] = 12,
    sets: Sets = None,
) -> None:
    """Draw the proposals of some images on a contact sheet."""
    from sslkit.files import PICTURES, check_output, save_picture
    from sslkit.targets import open_target
    from sslkit_proposals.sheet import contact_sheet

    check_output(out, "--out", PICTURES)
    source, proposer = open_target(target, sets or [])
    save_picture(contact_sheet(source, proposer.open(source), count), out)
    typer.echo(str(out))
