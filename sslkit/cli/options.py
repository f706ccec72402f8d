"""Options that several commands take, and the plugins that all of them work with."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sslkit.plugins import Plugins

Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one value, as in --set optimizer.base_lr=0.1; repeatable.",
    ),
]
CacheGB = Annotated[float, typer.Option(min=0, help="Gigabytes per machine that decoded images may take.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def loaded(context: typer.Context) -> Plugins:
    """Return the plugins that the command line was built with."""
    found: Any = context.obj
    assert isinstance(found, Plugins)
    return found
