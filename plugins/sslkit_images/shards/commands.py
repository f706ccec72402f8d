"""The command `sslkit images pack`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[str, typer.Argument(help="A recipe (path or name), or a folder of images.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the recipe: KEY=VALUE.")]
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_LARGEST = 10**15
_SHOWN = 40
"""Characters of a wrong size that the message shows."""


def add(app: typer.Typer) -> None:
    """Add the command to the plugin's own `app`."""
    app.callback()(_group)
    app.command("pack")(pack)


def _group() -> None:
    """Keep `pack` a sub-command while it is the only one."""


def pack(
    target: Target,
    out: Annotated[Path, typer.Option(help="The folder to write the tars into.")],
    size: Annotated[str, typer.Option(help="Maximum size of a tar: 500MB, 1GB.")] = "1GB",
    sets: Sets = None,
) -> None:
    """Write a recipe's images as tar shards in WebDataset's layout.

    An interrupted call is resumed by the same command. It compares the tars that are there with the images first.
    """
    from sslkit.progress import bar
    from sslkit.targets import open_source
    from sslkit_images.shards.packing import pack as pack_source

    max_size = parse_size(size)
    source = open_source(target, sets or [])
    with bar() as progress:
        result = pack_source(source, out, max_size, progress)
    left_out = ", ".join(f"{count} {what}" for what, count in result.left_out.items())
    typer.echo(f"{result.images} images, {result.size / 1e9:.3g} GB{f'; left out: {left_out}' if left_out else ''}")
    typer.echo("to read them, write\n")
    labels = {"labels": "cls"} if result.labels else {}
    table = {"use": "shards", "root": str(out), "pattern": result.pattern} | labels
    typer.echo("[source]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items()))


def parse_size(text: str) -> int:
    """Convert a size such as `500MB`, `1.5 GB` or `2000000` to bytes.

    Raises:
        UsageError: The text is not a size.
    """
    from sslkit.errors import UsageError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip(), re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not 1 <= size <= _LARGEST:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise UsageError(f"--size {shown} is not a size of at least a byte and at most 1000TB: write 500MB or 1GB")
    return int(size)
