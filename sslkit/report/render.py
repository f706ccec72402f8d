"""Render the table as Markdown and LaTeX, and its numbers as rows for CSV and JSON."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from sslkit.ablation import statistics
from sslkit.ablation.results import ArmResult, Results, dump
from sslkit.ablation.statistics import Difference, Mean
from sslkit.report.table import Cell, Column, Kind, ReportTable, format_setting, make_table, setting

# ------------------------------------------------------------------------------------------------ Markdown

_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_|<>&#$~"})
_RULES = {"left": ":--", "center": ":-:", "right": "--:"}


def to_markdown(results: Results) -> str:
    """Return the table as GitHub Markdown, with its notes as a list."""
    table = make_table(results)
    head = [_escape_markdown(_heading(column)) for column in table.columns]
    body = [[_markdown_cell(cell) for cell in row.cells] for row in table.rows]
    widths = [max(3, *map(len, texts)) for texts in zip(head, *body, strict=True)]
    rule = [_rule(column, width) for column, width in zip(table.columns, widths, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in (head, rule, *body)]
    notes = [f"- {_escape_markdown(note)}" for note in table.notes]
    parts = [f"**{_escape_markdown(table.title)}**", "\n".join(lines), _escape_markdown(table.legend), "\n".join(notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _heading(column: Column) -> str:
    """Return a heading for a table without grouped headings."""
    return column.group if column.kind == "metric" and not column.title.startswith("Δ") else column.title


def _rule(column: Column, width: int) -> str:
    rule = _RULES[column.align]
    return rule[0] + "-" * (width - 2) + rule[-1]


def _escape_markdown(text: str) -> str:
    return " ".join(text.split()).translate(_MARKDOWN).replace("](", "]\\(")


def _markdown_cell(cell: Cell) -> str:
    return f"**{_escape_markdown(cell.text)}**" if cell.best else _escape_markdown(cell.text)


# --------------------------------------------------------------------------------------------------- LaTeX

_LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
    | {
        ">": r"\textgreater{}",
        "[": "{[}",
        "]": "{]}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "`": r"\textasciigrave{}",
    }
    | {"±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "✓": r"\checkmark", "Δ": r"$\Delta$", "×": r"$\times$"}
    | {"\N{EN DASH}": "--", "…": r"\ldots{}", "\N{NO-BREAK SPACE}": "~"}
)


def to_latex(results: Results) -> str:
    """Return LaTeX `table` environments with results and costs; they need booktabs, amssymb and graphicx."""
    table = make_table(results)
    label = "tab:ablation-" + re.sub(r"[^A-Za-z0-9]+", "-", results.recipe).strip("-")
    *parts, costs = _latex_parts(table)
    captions = [
        f"{table.title}. {table.legend}",
        *[f"{table.title}, further metrics. {table.legend}"] * (len(parts) - 1),
    ]
    labels = [label, *(f"{label}-{number}" for number in range(2, len(parts) + 1))]
    tables = [_latex_table(*part, ()) for part in zip(parts[:-1], captions[:-1], labels[:-1], strict=True)]
    tables.append(_latex_table(parts[-1], captions[-1], labels[-1], table.notes))
    tables.append(_latex_table(costs, f"{table.title}: cost of a run.", f"{label}-cost", ()))
    return "% \\usepackage[T1]{fontenc} \\usepackage{booktabs,amssymb,graphicx}\n" + "\n".join(tables)


def _latex_parts(table: ReportTable) -> list[ReportTable]:
    """Split into tables of two metrics each, and one of costs, so that each is readable on paper."""
    groups = {kind: [item for item in table.groups() if table.columns[item[0]].kind == kind] for kind in get_args(Kind)}
    metrics = groups["metric"]
    blocks = [metrics[start : start + 2] for start in range(0, len(metrics), 2)] or [[]]
    blocks[0] = [*groups["objective"], *groups["varied"], *blocks[0]]
    return [table.pick([0, *itertools.chain(*block)]) for block in (*blocks, groups["cost"])]


def _latex_table(table: ReportTable, caption: str, label: str, notes: Sequence[str]) -> str:
    lines = [
        r"\begin{table}", r"  \centering", f"  \\caption{{{_escape_latex(caption)}}}", f"  \\label{{{label}}}",
        r"  \smallskip",
        r"  \setlength{\tabcolsep}{4pt}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"  \\begin{{tabular}}{{{''.join(column.align[0] for column in table.columns)}}}",
        r"    \toprule", *(f"    {line}" for line in _latex_head(table)), r"    \midrule",
        *(f"    {line}" for line in _latex_body(table)), r"    \bottomrule", r"  \end{tabular}}",
        *(f"  \\par\\smallskip\\footnotesize\\raggedright {_escape_latex(note)}" for note in notes), r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _latex_head(table: ReportTable) -> list[str]:
    """Return the headings of the groups, the rules below them, and the headings of the columns."""
    groups = table.groups()
    over, rules = [], []
    for numbers in groups:
        group = table.columns[numbers[0]].group
        over.append(f"\\multicolumn{{{len(numbers)}}}{{c}}{{{_escape_latex(group)}}}" if group else "")
        if group:
            rules.append(f"\\cmidrule(lr){{{numbers[0] + 1}-{numbers[-1] + 1}}}")
    titles = [_latex_title(column) for column in table.columns]
    return [f"{' & '.join(over)} \\\\", "".join(rules), f"{' & '.join(titles)} \\\\"]


def _latex_title(column: Column) -> str:
    """Return a column's heading; in narrow columns it breaks after hyphens, dots and underscores."""
    if column.kind not in {"objective", "varied"}:
        return _escape_latex(column.title)
    lines = re.findall(r"[^-_.]*[-_.]|[^-_.]+", column.title)
    return (
        r"\shortstack{" + r"\\".join(map(_escape_latex, lines)) + "}" if len(lines) > 1 else _escape_latex(column.title)
    )


def _latex_body(table: ReportTable) -> list[str]:
    lines: list[str] = []
    for row, before in zip(table.rows, (None, *table.rows), strict=False):
        if before is not None and row.reference and not before.reference and any(cell.text for cell in row.cells[1:]):
            lines.append(r"\midrule")
        if not row.reference or any(cell.text for cell in row.cells[1:]):
            lines.append(f"{' & '.join(map(_latex_cell, row.cells))} \\\\")
    return lines


def _latex_cell(cell: Cell) -> str:
    """Return a cell; its star has no width, so that numbers stay aligned."""
    text = _escape_latex(cell.text.removesuffix(" *")) + r"\rlap{$^{*}$}" * cell.text.endswith(" *")
    return f"\\textbf{{{text}}}" if cell.best else f"\\textit{{{text}}}" if cell.hole else text


def _escape_latex(text: str) -> str:
    return " ".join(text.split()).translate(_LATEX)


# ------------------------------------------------------------------------------------------------- numbers


def number_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row per arm and per set of untrained features, with a key for every number.

    Metrics have the scale of the probes (a rate is in [0, 1]). A missing number is None.
    """
    arms = [_arm_numbers(results, arm) for arm in results.arms]
    return [*arms, *(_reference_numbers(results, name, arms[0]) for name in statistics.reference_names(results))]


def _arm_numbers(results: Results, arm: ArmResult) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": arm.name, "kind": "arm", "digest": arm.digest}
    row |= {"seeds": len(arm.trials), "finished": arm.finished}
    row |= {f"has {name}": int(name in arm.objectives) for name in results.objectives}
    row |= {key: _raw(setting(results, arm, key)) for key in results.varied}
    for name in results.metrics:
        read = statistics.metric_reader(name)
        difference = None if arm is results.full else statistics.difference(arm, read, results.full)
        row |= _metric(name, statistics.mean(arm, read), difference)
    readers: dict[str, statistics.Reader] = {
        "images_per_s": lambda trial: trial.images_per_s,
        "peak_memory_bytes": lambda trial: trial.peak_memory,
        "hours": lambda trial: trial.hours,
    }
    means = {name: statistics.mean(arm, read) for name, read in readers.items()}
    return row | {"gflops_per_image": arm.gflops} | {name: mean.value if mean else None for name, mean in means.items()}


def _reference_numbers(results: Results, features: str, like: Mapping[str, Any]) -> dict[str, Any]:
    row = dict.fromkeys(like) | {"arm": features, "kind": "reference", "seeds": len(results.full.trials)}
    for name in results.metrics:
        read = statistics.reference_reader(features, name)
        difference = statistics.difference(results.full, read, results.full, statistics.metric_reader(name))
        row |= _metric(name, statistics.mean(results.full, read), difference)
    return row


def _metric(name: str, mean: Mean | None, difference: Difference | None) -> dict[str, Any]:
    """Return the numbers of one metric; `n` is the number of seeds."""
    parts: Iterable[tuple[str, float | None]] = (
        ("mean", mean.value if mean else None), ("std", mean.std if mean else None),
        ("diff", difference.value if difference else None), ("low", difference.low if difference else None),
        ("high", difference.high if difference else None), ("n", mean.n if mean else None),
    )  # fmt: skip
    return {f"{name} {part}": value for part, value in parts}


def _raw(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else format_setting(value)


def to_csv(results: Results) -> str:
    """Return all numbers as CSV, one column each; a cell is empty if its number is missing or does not apply."""
    rows = number_rows(results)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def to_json(results: Results) -> dict[str, Any]:
    """Return the values that `dump` returns, plus a `table` with means, differences and intervals."""
    return {**dump(results), "table": number_rows(results)}
