"""Print JSON and tables on stdout."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from sslkit.progress import make_console


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, default=str))  # noqa: T201


def print_parts(*parts: Any) -> None:
    """Print tables and lines of text, one below the other. Text is printed verbatim, without rich's markup."""
    console = make_console(stderr=False)
    for part in parts:
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)


def make_table(title: str, *columns: str, left: int = 1) -> Table:
    """Make an empty table: the first `left` columns are aligned to the left, the others to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", overflow="fold")
    return table
