"""The report of an ablation: one HTML file that holds everything it shows and asks the network for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sslkit.ablation.results import Results, Trial
from sslkit.report import curves, figure, panels
from sslkit.report.markup import Markup, join, tag
from sslkit.report.numbers import brief, style
from sslkit.report.table import CHECK, COSTS, DASH, Cell, Column, ReportRow, ReportTable, make, shown
from sslkit.storage.run_folder import METRICS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""A browser that follows it loads nothing from anywhere, whatever a recipe's name might say."""
_LONG = 24
"""Characters from which on a cell of text may be broken into lines."""


def html(results: Results) -> str:
    """Return the page; the curves are read from the trials' folders."""
    sections = {
        "Results": _results(results),
        "Figure": _figure(results),
        "What differs": _changes(results),
        "Missing": _missing(results),
        "Curves": _curves(results),
        "Runs": _runs(results),
        "Versions": _versions(results),
    }
    there = {name: content for name, content in sections.items() if content is not None}
    body = tag(
        "body", _header(results, list(there)), tag("main", *_sections(there)), tag("script", Markup(_asset("js")))
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


def _sections(there: dict[str, Markup]) -> Iterator[Markup]:
    for name, content in there.items():
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
    done = sum(trial.state == "finished" for trial in trials)
    seeds = f"{len(results.seeds)} seed{'s' * (len(results.seeds) != 1)}"
    return (
        f"{len(results.arms)} arms, {seeds}: {done} of {len(trials)} runs are finished{f'; {counts}' * bool(counts)}."
    )


# -------------------------------------------------------------------------------------------------- tables


def _scrolling(table: Markup, label: str) -> Markup:
    """Let a wide table be scrolled by itself, with the keyboard too."""
    return tag("section", table, class_="scroll", tabindex=0, aria_label=label)


def _results(results: Results) -> Markup:
    table = make(results)
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
    over, under = [], []
    for numbers in table.groups():
        group = table.columns[numbers[0]].group
        if not group:
            over.append(tag("th", table.columns[numbers[0]].title, rowspan=2, scope="col", class_="left"))
            continue
        over.append(tag("th", group, colspan=len(numbers), scope="colgroup"))
        columns = [table.columns[i] for i in numbers]
        under += [tag("th", _breakable(column.title), scope="col", class_=column.align) for column in columns]
    return tag("thead", tag("tr", *over), tag("tr", *under))


def _breakable(key: str) -> Markup:
    """Let a long key be broken behind its dots and underscores."""
    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", join(key)))


def _bodies(table: ReportTable) -> list[Markup]:
    """Return the rows of the arms, and those of what was not trained, where there are any."""
    parts = [[row for row in table.rows if row.reference is reference] for reference in (False, True)]
    return [tag("tbody", *(tag("tr", *_cells(table.columns, row)) for row in part)) for part in parts if part]


def _cells(columns: Sequence[Column], row: ReportRow) -> Iterator[Markup]:
    first, *rest = row.cells
    yield tag("th", first.text, scope="row", class_="left")
    for column, cell in zip(columns[1:], rest, strict=True):
        yield tag("td", _content(column, cell, row), class_=f"{column.align}{' hole' * cell.hole}")


def _content(column: Column, cell: Cell, row: ReportRow) -> Markup | str:
    """Return what a cell shows; a mark says "yes" or "no" to who cannot see it."""
    if column.kind == "objective" and not row.reference:
        yes = cell.text == CHECK
        mark = tag("span", CHECK, aria_hidden="true") if yes else None
        return join(mark, tag("span", "yes" if yes else "no", class_="unseen"))
    return tag("strong", cell.text) if cell.best else cell.text


def _plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> Markup:
    """Return a table of text, the first cell of each row its heading."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col", class_="left") for name in heads)))
    body = [tag("tr", tag("th", first, scope="row", class_="left"), *map(_text_cell, rest)) for first, *rest in rows]
    return _scrolling(tag("table", head, tag("tbody", *body)), label)


def _text_cell(text: str) -> Markup:
    return tag("td", text, class_=f"left{' long' * (len(text) > _LONG)}")


# ------------------------------------------------------------------------------------------------- sections


def _figure(results: Results) -> Markup:
    drawn = Markup(figure.inline_svg(results))
    told = "Left: a ring per seed, a bar at the mean. Right: the mean difference at equal seeds with its interval."
    return tag("figure", tag("div", drawn, class_="scroll", role="img", aria_label=told), tag("figcaption", told))


def _changes(results: Results) -> Markup:
    rows = [
        [arm.name, key, shown(old), shown(new)] for arm in results.arms[1:] for key, (old, new) in arm.changes.items()
    ]
    if not rows:
        return tag("p", f"Nothing differs from {results.full.name}.")
    table = _plain_table(["arm", "key", results.full.name, "this arm"], rows, "settings that differ")
    return join(
        tag("p", f"{DASH} stands for a key that is not there. Everything else is equal, seeds included."), table
    )


def _missing(results: Results) -> Markup | None:
    rest = [(arm, trial) for arm in results.arms for trial in arm.trials if trial.state != "finished"]
    if not rest:
        return None
    rows = [[arm.name, str(trial.seed), trial.state, trial.reason or DASH, trial.folder] for arm, trial in rest]
    table = _plain_table(["arm", "seed", "state", "reason", "folder"], rows, "runs without figures")
    told = (
        "An arm with a run missing has no mean and no difference. The same command goes on where it stopped: finished "
        "runs are taken as they are, interrupted ones resume at their last checkpoint, failed ones are tried again."
    )
    return join(table, tag("p", told), tag("pre", tag("code", results.command), tabindex=0))


def _curves(results: Results) -> Markup:
    found = curves.read_all(results)
    if not found:
        return tag("p", f"No trial has a {METRICS} that could be read from here.")
    told = (
        "One line per seed over the optimizer steps: means of a hundred stretches or fewer, with all values in the "
        "shade around them. A line breaks where no value was finite."
    )
    parts = [tag("p", told), panels.legend(results, found)]
    for name, wanted in panels.groups(results, found).items():
        if wanted:
            parts += [tag("h3", name), panels.grid(results, found, wanted[: panels.SHOWN])]
        if len(wanted) > panels.SHOWN:
            parts.append(tag("p", f"{len(wanted) - panels.SHOWN} more are in each run's {METRICS}."))
    return join(*parts)


def _runs(results: Results) -> Markup:
    styles = {name: style(results, name) for name in results.metrics}
    heads = [*(f"{name}{how.unit}" for name, how in styles.items()), *(title for title, _ in COSTS)]

    def figures(trial: Trial) -> list[str]:
        written = [(trial.metrics.get(name), how.plain) for name, how in styles.items()]
        written += [(read(trial), brief) for _, read in COSTS]
        return [DASH if value is None else write(value) for value, write in written]

    rows = [
        [arm.name, str(trial.seed), trial.state, *figures(trial), trial.folder, arm.digest]
        for arm in results.arms
        for trial in arm.trials
    ]
    table = _plain_table(["arm", "seed", "state", *heads, "folder", "recipe's hash"], rows, "every run")
    return tag("details", tag("summary", "Every run's figures"), table)


def _versions(results: Results) -> Markup | None:
    if not results.versions:
        return None
    return _plain_table(["package or plugin", "version"], [[*item] for item in results.versions.items()], "versions")
