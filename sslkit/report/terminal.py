"""The table on a terminal: one where it fits, else several that each begin with the arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sslkit.ablation.results import Results
from sslkit.progress import make_console
from sslkit.report.table import Cell, Column, ReportTable, make

_ASCII = str.maketrans(
    {"✓": "x", "\N{MINUS SIGN}": "-", "±": "+-", "Δ": "diff", "\N{EN DASH}": "-", "…": "...", "×": "x"}
)
_NAME = 26
"""Characters of a name in one line."""
_PADDING = 3
"""Columns of the terminal that one column of the table needs beside its text."""


def show(results: Results, console: Console | None = None) -> None:
    """Print an ablation; on stdout by default."""
    console = console or make_console(stderr=False)
    table = make(results)
    parts = split(table, console.width)
    for number, part in enumerate(parts, 1):
        title = table.title + (f" ({number} of {len(parts)})" if len(parts) > 1 else "")
        console.print(_rich(part, title, console))
    for line in (*filter(None, [table.legend]), *(f"note: {note}" for note in table.notes)):
        console.print(_text(line, console))


def _text(words: str, console: Console) -> Text:
    """Return text that the terminal's encoding can carry."""
    try:
        words.encode(console.encoding)
    except UnicodeEncodeError:
        words = words.translate(_ASCII).encode(console.encoding, "replace").decode(console.encoding)
    return Text(words)


# ---------------------------------------------------------------------------------------------- splitting


def split(table: ReportTable, width: int) -> list[ReportTable]:
    """Return tables of this width at most, as far as headings can stay together: what costs what goes apart first."""
    groups = table.groups()[1:]
    costs = [group for group in groups if table.columns[group[0]].kind == "cost"]
    rest = [group for group in groups if group not in costs]
    for blocks in ([groups], [rest, costs], list(_packed(table, groups, width))):
        parts = [table.pick([0, *(number for group in block for number in group)]) for block in blocks if block]
        if all(_width(part) <= width for part in parts):
            break
    return [_without_empty_rows(part) for part in parts]


def _packed(table: ReportTable, groups: Sequence[list[int]], width: int) -> Iterator[list[list[int]]]:
    """Yield as many neighbouring groups as fit beside the arms' names; one at least."""
    block: list[list[int]] = []
    for group in groups:
        wider = [*block, group]
        if block and _width(table.pick([0, *(number for item in wider for number in item)])) > width:
            yield block
            wider = [group]
        block = wider
    yield block


def _without_empty_rows(table: ReportTable) -> ReportTable:
    """Leave out what was not trained where there is nothing but its name."""
    rows = tuple(row for row in table.rows if not row.reference or any(cell.text for cell in row.cells[1:]))
    return replace(table, rows=rows)


def _width(table: ReportTable) -> int:
    """Return the characters that a table takes, headings included."""
    return 1 + sum(max(map(cell_len, _lines(table, i))) + _PADDING for i in range(len(table.columns)))


def _lines(table: ReportTable, number: int) -> list[str]:
    texts = [_header(table.columns[number]), *(_broken(row.cells[number].text) for row in table.rows)]
    return "\n".join(texts).split("\n")


def _header(column: Column) -> str:
    """Return a heading that is no wider than it must be."""
    if column.kind in {"objective", "varied"}:
        return "".join(f"{mark}\n" if mark in "-_." else mark for mark in column.title)
    if column.kind == "metric" and not column.title.startswith("Δ"):
        return column.group.replace(" ", "\n", 1)
    return column.title.replace(" [", "\n[").replace(" (", "\n(")


def _broken(name: str) -> str:
    """Break a long name behind one of its marks, else anywhere."""
    if len(name) <= _NAME:
        return name
    at = max(name.rfind(mark, 0, _NAME) for mark in "-+=._, ") + 1 or _NAME
    return f"{name[:at]}\n{_broken(name[at:])}"


# ---------------------------------------------------------------------------------------------- rendering


def _rich(table: ReportTable, title: str, console: Console) -> RichTable:
    made = RichTable(title=_text(title, console), title_justify="left", title_style="bold")
    for column in table.columns:
        made.add_column(_text(_header(column), console), justify=column.align, vertical="top", overflow="fold")
    arms = sum(not row.reference for row in table.rows)
    for number, row in enumerate(table.rows, 1):
        made.add_row(*(_styled(cell, console) for cell in row.cells), end_section=number == arms)
    return made


def _styled(cell: Cell, console: Console) -> Text:
    text = _text(_broken(cell.text), console)
    text.stylize("bold" if cell.best else "dim" if cell.hole else "")
    return text
