"""The command `sslkit images pack`: it parses, calls and prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[str, typer.Argument(help="A recipe (path or name), or a folder of photos.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the recipe: KEY=VALUE.")]
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def add(app: typer.Typer) -> None:
    """Add the command to the plugin's own `app`."""
    app.callback()(_group)
    app.command("pack")(pack)


def _group() -> None:
    """Keep `pack` a sub-command while it is the only one."""


def pack(
    target: Target,
    out: Annotated[Path, typer.Option(help="The folder to write the tars into.")],
    size: Annotated[str, typer.Option(help="Of a tar at most: 500MB, 1GB.")] = "1GB",
    sets: Sets = None,
) -> None:
    """Write a recipe's images as tar shards that WebDataset reads, too; go on where an earlier call stopped."""
    from sslkit.progress import bar
    from sslkit.targets import open_source
    from sslkit_images.shards.packing import pack as packed

    most = size_of(size)
    source = open_source(target, sets or [])
    with bar() as progress:
        done = packed(source, out, most, progress)
    typer.echo(f"{done.images} images, {done.size / 1e9:.3g} GB; read them with\n")
    lines = {"use": "shards", "root": str(out), "pattern": done.pattern} | ({"labels": "cls"} if done.labels else {})
    typer.echo("[source]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items()))


def size_of(text: str) -> int:
    """Return the bytes that a size means: `500MB`, `1.5 GB`, `2000000`.

    Raises:
        UsageError: It means none.
    """
    from sslkit.errors import UsageError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise UsageError(f"--size {text} is no size: write 500MB or 1GB")
    return int(float(found[1]) * _UNITS[found[2].lower()])
