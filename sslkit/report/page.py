"""Build the HTML page of an ablation: a single file that loads nothing from the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sslkit.ablation.results import Results, Trial
from sslkit.report import curves, figure, panels
from sslkit.report.markup import Markup, join, tag
from sslkit.report.numbers import number_format, short_number
from sslkit.report.online_curves import read_online_curves
from sslkit.report.table import (
    CHECK,
    COSTS,
    DASH,
    Cell,
    Column,
    ReportRow,
    ReportTable,
    format_setting,
    make_table,
)
from sslkit.storage.run_folder import METRICS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Forbids the browser to load anything, whatever a recipe's name contains."""
_LONG_CHARACTERS = 24
"""A longer text in a cell may be broken into lines."""


def to_html(results: Results) -> str:
    """Return the page; read the curves from the folders of the trials."""
    sections = {
        "Results": _results(results),
        "Figure": _figure(results),
        "What differs": _changes(results),
        "Missing": _missing(results),
        "Curves": _curves(results),
        "Runs": _runs(results),
        "Versions": _versions(results),
    }
    present = {name: content for name, content in sections.items() if content is not None}
    body = tag(
        "body", _header(results, list(present)), tag("main", *_sections(present)), tag("script", Markup(_asset("js")))
    )
    return f"<!DOCTYPE html>\n{tag('html', _head(results), body, lang='en')}\n"


def _asset(kind: str) -> str:
    return Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")


def _head(results: Results) -> Markup:
    return tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"), tag("title", _title(results)), tag("style", Markup(_asset("css"))),
    )  # fmt: skip


def _title(results: Results) -> str:
    return f"Ablation of {results.recipe}"


def _sections(contents: dict[str, Markup]) -> Iterator[Markup]:
    for name, content in contents.items():
        yield tag("section", tag("h2", name), content, id=_anchor(name))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _header(results: Results, names: Sequence[str]) -> Markup:
    links = [tag("a", name, href=f"#{_anchor(name)}") for name in names]
    return tag(
        "header", tag("h1", _title(results)), tag("p", results.summary) if results.summary else None,
        tag("pre", tag("code", results.command), tabindex=0, aria_label="command"), tag("p", _progress(results)),
        tag("nav", *links, aria_label="sections"),
    )  # fmt: skip


def _progress(results: Results) -> str:
    trials = [trial for arm in results.arms for trial in arm.trials]
    states = list(dict.fromkeys(trial.state for trial in trials if trial.state != "finished"))
    counts = ", ".join(f"{sum(trial.state == state for trial in trials)} {state}" for state in states)
    finished = sum(trial.state == "finished" for trial in trials)
    seeds = f"{len(results.seeds)} seed{'s' * (len(results.seeds) != 1)}"
    rest = f"; {counts}" * bool(counts)
    return f"{len(results.arms)} arms, {seeds}: {finished} of {len(trials)} runs are finished{rest}."


# -------------------------------------------------------------------------------------------------- tables


def _scrolling(table: Markup, label: str) -> Markup:
    """Put a wide table into a box that scrolls by itself, also with the keyboard."""
    return tag("section", table, class_="scroll", tabindex=0, aria_label=label)


def _results(results: Results) -> Markup:
    table = make_table(results)
    costs = [number for number, column in enumerate(table.columns) if column.kind == "cost"]
    main = table.pick([number for number in range(len(table.columns)) if number not in costs])
    notes = tag("ul", *(tag("li", note) for note in table.notes)) if table.notes else None
    return join(
        _scrolling(tag("table", _thead(main), *_bodies(main)), "results"),
        tag("p", table.legend, class_="legend") if table.legend else None, notes,
        tag("h3", "Cost"),
        _scrolling(tag("table", _thead(table.pick([0, *costs])), *_bodies(table.pick([0, *costs]))[:1]), "costs"),
    )  # fmt: skip


def _thead(table: ReportTable) -> Markup:
    upper, lower = [], []
    for numbers in table.groups():
        group = table.columns[numbers[0]].group
        if not group:
            upper.append(tag("th", table.columns[numbers[0]].title, rowspan=2, scope="col", class_="left"))
            continue
        upper.append(tag("th", group, colspan=len(numbers), scope="colgroup"))
        columns = [table.columns[i] for i in numbers]
        lower += [tag("th", _breakable(column.title), scope="col", class_=column.align) for column in columns]
    return tag("thead", tag("tr", *upper), tag("tr", *lower))


def _breakable(key: str) -> Markup:
    """Allow line breaks after the dots and underscores of a long key."""
    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", join(key)))


def _bodies(table: ReportTable) -> list[Markup]:
    """Return the rows of the arms and those of untrained features, as separate bodies, leaving out empty ones."""
    parts = [[row for row in table.rows if row.reference is reference] for reference in (False, True)]
    return [tag("tbody", *(tag("tr", *_cells(table.columns, row)) for row in part)) for part in parts if part]


def _cells(columns: Sequence[Column], row: ReportRow) -> Iterator[Markup]:
    first, *rest = row.cells
    yield tag("th", first.text, scope="row", class_="left")
    for column, cell in zip(columns[1:], rest, strict=True):
        yield tag("td", _content(column, cell, row), class_=f"{column.align}{' hole' * cell.hole}")


def _content(column: Column, cell: Cell, row: ReportRow) -> Markup | str:
    """Return the content of a cell; for screen readers, a check mark is "yes" and its absence "no"."""
    if column.kind == "objective" and not row.reference:
        yes = cell.text == CHECK
        mark = tag("span", CHECK, aria_hidden="true") if yes else None
        return join(mark, tag("span", "yes" if yes else "no", class_="unseen"))
    return tag("strong", cell.text) if cell.best else cell.text


def _plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> Markup:
    """Return a table of text, where the first cell of each row is its heading."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col", class_="left") for name in heads)))
    body = [tag("tr", tag("th", first, scope="row", class_="left"), *map(_text_cell, rest)) for first, *rest in rows]
    return _scrolling(tag("table", head, tag("tbody", *body)), label)


def _text_cell(text: str) -> Markup:
    return tag("td", text, class_=f"left{' long' * (len(text) > _LONG_CHARACTERS)}")


# ------------------------------------------------------------------------------------------------- sections


def _figure(results: Results) -> Markup:
    drawing = Markup(figure.to_inline_svg(results))
    caption = (
        "Left: a ring per seed and a bar at the mean. Right: the mean difference at equal seeds, with its interval."
    )
    return tag(
        "figure", tag("div", drawing, class_="scroll", role="img", aria_label=caption), tag("figcaption", caption)
    )


def _changes(results: Results) -> Markup:
    rows = [
        [arm.name, key, format_setting(old), format_setting(new)]
        for arm in results.arms[1:]
        for key, (old, new) in arm.changes.items()
    ]
    if not rows:
        return tag("p", f"Nothing differs from {results.full.name}.")
    table = _plain_table(["arm", "key", results.full.name, "this arm"], rows, "settings that differ")
    return join(tag("p", f"{DASH} stands for a missing key. Everything else is equal, including the seeds."), table)


def _missing(results: Results) -> Markup | None:
    rest = [(arm, trial) for arm in results.arms for trial in arm.trials if trial.state != "finished"]
    if not rest:
        return None
    rows = [[arm.name, str(trial.seed), trial.state, trial.reason or DASH, trial.folder] for arm, trial in rest]
    table = _plain_table(["arm", "seed", "state", "reason", "folder"], rows, "unfinished runs")
    text = (
        "An arm with a missing run has no mean and no difference. The same command continues: finished runs are "
        "reused, interrupted ones resume from their last checkpoint, and failed ones are tried again."
    )
    return join(table, tag("p", text), tag("pre", tag("code", results.command), tabindex=0))


def _curves(results: Results) -> Markup:
    trial_curves = curves.read_curves(results)
    if not trial_curves:
        return tag("p", f"No trial has a readable {METRICS}.")
    text = (
        "One line per seed over the optimizer steps: the means of up to a hundred intervals, with the range of all "
        "values shaded. A line breaks where no value was finite."
    )
    parts = [tag("p", text), panels.legend(results, trial_curves), *_online_curves(results)]
    for heading, names in panels.names_by_heading(results, trial_curves).items():
        if names:
            parts += [tag("h3", heading), panels.panel_grid(results, trial_curves, names[: panels.MAX_PANELS])]
        if len(names) > panels.MAX_PANELS:
            parts.append(tag("p", f"{len(names) - panels.MAX_PANELS} more are in each run's {METRICS}."))
    return join(*parts)


def _online_curves(results: Results) -> Iterator[Markup]:
    online = read_online_curves(results)
    if online.arms:
        yield tag("h3", "Online probes")
        yield tag("p", (
            "Means over the seeds against images seen, with the 95 % interval of the mean shaded, as far as every "
            f"started seed got. Horizontal lines are features of {results.arms[online.arms[0].arm].name} that were not "
            "trained. Online probes use fewer crops than those of the table."
        ))  # fmt: skip
        yield panels.panel_grid(results, online.arms, online.names[: panels.MAX_PANELS], online.baselines)


def _runs(results: Results) -> Markup:
    formats = {name: number_format(results, name) for name in results.metrics}
    heads = [*(f"{name}{fmt.unit}" for name, fmt in formats.items()), *(title for title, _ in COSTS)]

    def cells(trial: Trial) -> list[str]:
        numbers = [(trial.metrics.get(name), fmt.plain) for name, fmt in formats.items()]
        numbers += [(read(trial), short_number) for _, read in COSTS]
        return [DASH if value is None else write(value) for value, write in numbers]

    rows = [
        [arm.name, str(trial.seed), trial.state, *cells(trial), trial.folder, arm.digest]
        for arm in results.arms
        for trial in arm.trials
    ]
    table = _plain_table(["arm", "seed", "state", *heads, "folder", "recipe's hash"], rows, "every run")
    return tag("details", tag("summary", "The numbers of every run"), table)


def _versions(results: Results) -> Markup | None:
    if not results.versions:
        return None
    return _plain_table(["package or plugin", "version"], [[*item] for item in results.versions.items()], "versions")
