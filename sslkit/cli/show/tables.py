"""Print JSON and tables on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.table import Table

from sslkit.foreign.isolation import stdout_as_stderr
from sslkit.progress import make_console

_write: ContextVar[Callable[[str], object] | None] = ContextVar("write", default=None)
"""What writes results while stdout is for them alone."""


@contextmanager
def results_alone() -> Iterator[None]:
    """Send what the block prints on stdout to stderr, except for `print_result`: programs read what is left."""
    if _write.get():
        yield
        return
    with stdout_as_stderr() as write:
        before = _write.set(write)
        try:
            yield
        finally:
            _write.reset(before)


def print_result(text: str) -> None:
    """Print a text that is a result as it stands."""
    (_write.get() or sys.stdout.write)(text)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print_result(json.dumps(value, indent=2, default=str) + "\n")


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
