"""Print the table in a terminal: in one piece if it fits, otherwise as several tables that each start with the arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sslkit.ablation.results import Results
from sslkit.progress import make_console
from sslkit.report.table import Cell, Column, ReportTable, make_table

_ASCII = str.maketrans(
    {"✓": "x", "\N{MINUS SIGN}": "-", "±": "+-", "Δ": "diff", "\N{EN DASH}": "-", "…": "...", "×": "x"}
)
_NAME_CHARACTERS = 26
"""Most characters of a name in one line."""
_PADDING = 3
"""Characters that a column of the table needs besides its text."""


def print_table(results: Results, console: Console | None = None) -> None:
    """Print the table of an ablation with its legend and notes, on stdout by default."""
    console = console or make_console(stderr=False)
    table = make_table(results)
    parts = split_table(table, console.width)
    for number, part in enumerate(parts, 1):
        title = table.title + (f" ({number} of {len(parts)})" if len(parts) > 1 else "")
        console.print(_rich_table(part, title, console))
    for line in (*filter(None, [table.legend]), *(f"note: {note}" for note in table.notes)):
        console.print(_text(line, console))


def _text(text: str, console: Console) -> Text:
    """Return text in characters that the terminal's encoding has."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(console.encoding, "replace").decode(console.encoding)
    return Text(text)


# ---------------------------------------------------------------------------------------------- splitting


def split_table(table: ReportTable, width: int) -> list[ReportTable]:
    """Split a table to a width, costs first, then between groups; a single group may still be wider."""
    groups = table.groups()[1:]
    costs = [group for group in groups if table.columns[group[0]].kind == "cost"]
    rest = [group for group in groups if group not in costs]
    for blocks in ([groups], [rest, costs], list(_packed(table, groups, width))):
        parts = [table.pick([0, *(number for group in block for number in group)]) for block in blocks if block]
        if all(_width(part) <= width for part in parts):
            break
    return [_without_empty_rows(part) for part in parts]


def _packed(table: ReportTable, groups: Sequence[list[int]], width: int) -> Iterator[list[list[int]]]:
    """Yield blocks of neighbouring groups that fit beside the arms' names, with at least one group each."""
    block: list[list[int]] = []
    for group in groups:
        wider = [*block, group]
        if block and _width(table.pick([0, *(number for item in wider for number in item)])) > width:
            yield block
            wider = [group]
        block = wider
    yield block


def _without_empty_rows(table: ReportTable) -> ReportTable:
    """Remove the rows of untrained features that are empty except for the name."""
    rows = tuple(row for row in table.rows if not row.reference or any(cell.text for cell in row.cells[1:]))
    return replace(table, rows=rows)


def _width(table: ReportTable) -> int:
    """Return the width of a table in characters, headings included."""
    return 1 + sum(max(map(cell_len, _lines(table, i))) + _PADDING for i in range(len(table.columns)))


def _lines(table: ReportTable, number: int) -> list[str]:
    texts = [_header(table.columns[number]), *(_break_name(row.cells[number].text) for row in table.rows)]
    return "\n".join(texts).split("\n")


def _header(column: Column) -> str:
    """Return a heading, broken into lines to keep the column narrow."""
    if column.kind in {"objective", "varied"}:
        return "".join(f"{mark}\n" if mark in "-_." else mark for mark in column.title)
    if column.kind == "metric" and not column.title.startswith("Δ"):
        return column.group.replace(" ", "\n", 1)
    return column.title.replace(" [", "\n[").replace(" (", "\n(")


def _break_name(name: str) -> str:
    """Break a long name after a punctuation mark, or else anywhere."""
    if len(name) <= _NAME_CHARACTERS:
        return name
    at = max(name.rfind(mark, 0, _NAME_CHARACTERS) for mark in "-+=._, ") + 1 or _NAME_CHARACTERS
    return f"{name[:at]}\n{_break_name(name[at:])}"


# ---------------------------------------------------------------------------------------------- rendering


def _rich_table(table: ReportTable, title: str, console: Console) -> RichTable:
    rich_table = RichTable(title=_text(title, console), title_justify="left", title_style="bold")
    for column in table.columns:
        rich_table.add_column(_text(_header(column), console), justify=column.align, vertical="top", overflow="fold")
    arms = sum(not row.reference for row in table.rows)
    for number, row in enumerate(table.rows, 1):
        rich_table.add_row(*(_cell(cell, console) for cell in row.cells), end_section=number == arms)
    return rich_table


def _cell(cell: Cell, console: Console) -> Text:
    text = _text(_break_name(cell.text), console)
    text.stylize("bold" if cell.best else "dim" if cell.hole else "")
    return text
