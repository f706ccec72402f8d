"""The table of an ablation, as columns and cells that every format renders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sslkit.ablation import statistics
from sslkit.ablation.results import ArmResult, Results, Trial
from sslkit.report.numbers import Style, brief, gib, style

CHECK = "✓"
DASH = "\N{EN DASH}"
SHOWN_CHARACTERS = 40
"""Of a varied value, in a table."""
Kind = Literal["arm", "objective", "varied", "metric", "cost"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: Under the group's heading.
        group: A heading over neighbouring columns; they stay together where a table is split.
    """

    title: str
    group: str = ""
    kind: Kind = "metric"

    @property
    def align(self) -> Literal["left", "center", "right"]:
        """Names to the left, marks in the middle, numbers to the right."""
        return "left" if self.kind == "arm" else "center" if self.kind == "objective" else "right"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: Plain text, with ± and − as they are written by hand.
        best: The best mean of its column.
        hole: There is no figure to show.
    """

    text: str = ""
    best: bool = False
    hole: bool = False


@dataclass(frozen=True)
class ReportRow:
    """One arm, or features that were not trained."""

    cells: tuple[Cell, ...]
    reference: bool = False


@dataclass(frozen=True)
class ReportTable:
    """Columns and rows, with what has to be said about them.

    Attributes:
        legend: How to read it.
        notes: What is missing and why, and what else is worth saying.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[ReportRow, ...]
    legend: str
    notes: tuple[str, ...]

    def pick(self, numbers: Sequence[int]) -> ReportTable:
        """Return a table of these columns alone."""
        rows = tuple(ReportRow(tuple(row.cells[i] for i in numbers), row.reference) for row in self.rows)
        return ReportTable(self.title, tuple(self.columns[i] for i in numbers), rows, self.legend, self.notes)

    def groups(self) -> list[list[int]]:
        """Return the numbers of neighbouring columns with one heading."""
        found: list[list[int]] = []
        for number, column in enumerate(self.columns):
            last = self.columns[number - 1] if number else None
            together = last is not None and column.group and (last.group, last.kind) == (column.group, column.kind)
            found[-1].append(number) if together else found.append([number])
        return found


def make(results: Results) -> ReportTable:
    """Lay out all arms, and below them what was not trained."""
    made = [*_settings(results), *_metrics(results), *_costs()]
    columns = tuple(column for column, _ in made)
    arms = [ReportRow(tuple(cells(arm) for _, cells in made)) for arm in results.arms]
    found = [_reference(results, name, columns) for name in statistics.reference_names(results)]
    return ReportTable(
        f"Ablation of {results.recipe}", columns, (*arms, *found), legend(results), tuple(notes(results))
    )


Maker = tuple[Column, Callable[[ArmResult], Cell]]
"""A column, and what makes an arm's cell in it."""


# ---------------------------------------------------------------------------------------- arms and settings


def _settings(results: Results) -> list[Maker]:
    arm: Maker = (Column("arm", kind="arm"), lambda item: Cell(item.name))
    return [arm, *map(_objective, results.objectives), *(_varied(results, key) for key in results.varied)]


def _objective(name: str) -> Maker:
    return Column(name, "objectives", "objective"), lambda arm: Cell(CHECK if name in arm.objectives else "")


def _varied(results: Results, key: str) -> Maker:
    return Column(key, "settings", "varied"), lambda arm: Cell(shown(setting(results, arm, key), SHOWN_CHARACTERS))


def setting(results: Results, arm: ArmResult, key: str) -> Any:
    """Return an arm's value of a varied key: from its changes, else what the others were changed from."""
    if key in arm.changes:
        return arm.changes[key][1]
    inner = {name.removeprefix(f"{key}."): new for name, (_, new) in arm.changes.items() if name.startswith(f"{key}.")}
    if inner:
        return inner
    return next((other.changes[key][0] for other in results.arms if key in other.changes), None)


def shown(value: Any, limit: int | None = None) -> str:
    """Write a setting as TOML would, words without quotes; a dash for a missing key."""
    if value is None:
        return DASH
    if isinstance(value, dict):
        text = ", ".join(f"{key} = {shown(item)}" for key, item in value.items())
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"


# ------------------------------------------------------------------------------------------------- metrics


def shown_metrics(results: Results) -> list[str]:
    """Return the metrics that tell arms apart; all of them where none does."""
    told = [name for name in results.metrics if not statistics.is_constant(results, name)]
    return told or list(results.metrics)


def _metrics(results: Results) -> list[Maker]:
    return [maker for name in shown_metrics(results) for maker in _metric(results, name)]


def _metric(results: Results, name: str) -> list[Maker]:
    how, read, group = style(results, name), statistics.metric_reader(name), _heading(results, name)
    means = [found.value for arm in results.arms if (found := statistics.mean(arm, read))]
    best = max(means) if len(set(means)) > 1 else None

    def value(arm: ArmResult) -> Cell:
        found = statistics.mean(arm, read)
        return Cell(how.mean(found), found.value == best) if found else Cell("hole", hole=True)

    def versus(arm: ArmResult) -> Cell:
        return _versus(results, arm, read, how)

    return [(column, cells) for column, cells in zip(_metric_columns(results, group), (value, versus), strict=True)]


def _heading(results: Results, name: str) -> str:
    return f"{name}{style(results, name).unit}"


def _metric_columns(results: Results, group: str) -> list[Column]:
    several = len(results.seeds) > 1
    titles = ("mean ± std", "Δ to full [95 %]") if several else ("value", "Δ to full")
    return [Column(title, group) for title in titles]


def _versus(results: Results, arm: ArmResult, read: statistics.Reader, how: Style) -> Cell:
    """Return the difference to the full recipe; for a hole, how many seeds there are."""
    if statistics.complete_values(arm, read) is None:
        there = sum(value is not None for value in statistics.seed_values(arm, read))
        return Cell(f"{there} of {len(arm.trials)} seeds", hole=True)
    found = None if arm is results.full else statistics.difference(arm, read, results.full)
    return Cell(how.difference(found)) if found else Cell(DASH, hole=arm is not results.full)


def _reference(results: Results, features: str, columns: Sequence[Column]) -> ReportRow:
    """Return the row of features that were not trained, over the full recipe's seeds."""
    cells = {_heading(results, name): _reference_cells(results, features, name) for name in shown_metrics(results)}
    row = [Cell(features) if column.kind == "arm" else Cell() for column in columns]
    for number, column in enumerate(columns):
        if column.kind == "metric":
            row[number] = cells[column.group].pop(0)
    return ReportRow(tuple(row), reference=True)


def _reference_cells(results: Results, features: str, name: str) -> list[Cell]:
    full, read, how = results.full, statistics.reference_reader(features, name), style(results, name)
    found = statistics.mean(full, read)
    if found is None:
        there = sum(value is not None for value in statistics.seed_values(full, read))
        return [Cell("hole", hole=True), Cell(f"{there} of {len(full.trials)} seeds", hole=True)]
    versus = statistics.difference(full, read, full, statistics.metric_reader(name))
    return [Cell(how.mean(found)), Cell(how.difference(versus)) if versus else Cell(DASH, hole=True)]


# --------------------------------------------------------------------------------------------------- costs


def memory(trial: Trial) -> float | None:
    """Return a trial's peak memory in GiB."""
    return None if trial.peak_memory is None else gib(trial.peak_memory)


COSTS: tuple[tuple[str, statistics.Reader], ...] = (
    ("images per s", lambda trial: trial.images_per_s),
    ("memory (GiB)", memory),
    ("hours", lambda trial: trial.hours),
)
"""What a run costs, a mean over the seeds, beside its floating point operations."""


def _costs() -> list[Maker]:
    flops: Maker = (Column("GFLOPs/image", "cost of a run", "cost"), lambda arm: Cell(brief(arm.gflops)))
    return [flops, *(_cost(title, read) for title, read in COSTS)]


def _cost(title: str, read: statistics.Reader) -> Maker:
    def cells(arm: ArmResult) -> Cell:
        found = statistics.mean(arm, read)
        return Cell(brief(found.value)) if found else Cell(DASH, hole=True)

    return Column(title, "cost of a run", "cost"), cells


# ------------------------------------------------------------------------------------------- what is said


def legend(results: Results) -> str:
    """Say how to read the metrics; nothing where there are none."""
    if not results.metrics:
        return ""
    if len(results.seeds) == 1:
        return "One seed: no spread and no interval can be given. Δ is the difference to full at that seed."
    words = (
        f"Mean ± standard deviation over {len(results.seeds)} seeds. Δ is the mean difference to full at equal seeds, "
        "with its 95 % t interval; * marks an interval that excludes zero."
    )
    many = " Each interval is for one comparison; none is widened for their number."
    return words + many * (len(results.arms) > 2)


def notes(results: Results) -> list[str]:
    """Say what is missing and why, what was left out, and what the ablation itself has to say."""
    lines = [line for arm in results.arms for line in _missing(arm)]
    if any(statistics.complete_values(results.full, statistics.metric_reader(name)) is None for name in results.metrics):
        lines.append(f"{results.full.name} has a hole, so that no difference to it can be given.")
    left_out = [name for name in results.metrics if name not in shown_metrics(results)]
    return [*lines, *(_same(results, name) for name in left_out), *results.notes]


def _missing(arm: ArmResult) -> list[str]:
    rest = [trial for trial in arm.trials if trial.state != "finished"]
    if rest and all(trial.state == "waiting" for trial in arm.trials):
        return [f"{arm.name}: not started"]
    return [f"{arm.name}, seed {trial.seed}: {trial.state}{f': {trial.reason}' * bool(trial.reason)}" for trial in rest]


def _same(results: Results, name: str) -> str:
    found = statistics.mean(results.full, statistics.metric_reader(name))
    figure = style(results, name).mean(found) if found else "one value per seed"
    return f"{_heading(results, name)} is the same in every row: {figure}"
