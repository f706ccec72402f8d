"""The commands `sslkit proposals ...`: they parse, call and print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[str, typer.Argument(help="A recipe (path or name), or a folder of photos.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the recipe: KEY=VALUE.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add(app: typer.Typer) -> None:
    """Add the commands to the plugin's own `app`."""
    app.command("build")(build)
    app.command("import")(import_)
    app.command("stats")(stats)
    app.command("view")(view)


def build(
    target: Target,
    sets: Sets = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Search the I-th of N shares, from 0, or the task's own of a SLURM array: slurm."
        ),
    ] = None,
) -> None:
    """Compute and store the region proposals of every photo; go on where an earlier call stopped."""
    from sslkit.progress import bar
    from sslkit.targets import open_target
    from sslkit_proposals.sharing import build_share
    from sslkit_proposals.stats import report

    source, proposer = open_target(target, sets or [])
    with bar() as progress:
        if shard:
            build_share(source, proposer, shard, progress, jobs or cores())
        else:
            proposer.build(source, progress, jobs or cores())
    left = proposer.missing(source) if shard else None
    for line in (
        [f"share {shard} is searched; others are not: {left.splitlines()[0]}"] if left else report(source, proposer)
    ):
        typer.echo(line)


def import_(
    target: Target,
    files: Annotated[list[Path], typer.Argument(metavar="FILE.json...", help="ORL's proposal files.")],
    annotations: Annotated[
        list[Path] | None, typer.Option(help="COCO's annotation file whose order the proposals have; repeatable.")
    ] = None,
    sets: Sets = None,
) -> None:
    """Take the raw regions from ORL's published files instead of searching for them."""
    from sslkit.progress import bar
    from sslkit.targets import open_target
    from sslkit_proposals.importing import import_orl, summary

    source, proposer = open_target(target, sets or [])
    with bar() as progress:
        done = import_orl(source, proposer, files, annotations or [], progress)
    for line in summary(done):
        typer.echo(line)


def stats(target: Target, sets: Sets = None, as_json: Json = False) -> None:
    """Show how many proposals there are, of what sizes, and which photos failed."""
    import json

    from rich.console import Console

    from sslkit.targets import open_target
    from sslkit_proposals.stats import describe, tables

    figures = describe(*open_target(target, sets or []))
    typer.echo(json.dumps(figures, indent=2)) if as_json else Console().print(tables(figures))


def view(
    target: Target,
    out: Annotated[Path, typer.Option(help="The PNG file to write.")],
    count: Annotated[int, typer.Option(min=1, help="Photos on the sheet.")] = 12,
    sets: Sets = None,
) -> None:
    """Draw the proposals over some photos, on one sheet."""
    from sslkit.targets import open_target
    from sslkit_proposals.sheet import contact_sheet

    source, proposer = open_target(target, sets or [])
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(source, proposer.open(source), count).save(out, format="PNG")
    typer.echo(str(out))
