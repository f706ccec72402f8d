"""Lay out the table of an ablation as columns and cells, which every format then renders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sslkit.ablation import statistics
from sslkit.ablation.results import ArmResult, Results, Trial
from sslkit.report.numbers import NumberFormat, gib, number_format, short_number

CHECK = "✓"
DASH = "\N{EN DASH}"
MAX_CHARACTERS = 40
"""Most characters of a varied value in a table."""
Kind = Literal["arm", "objective", "varied", "metric", "cost"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: Heading of the column, below that of its group.
        group: Heading over neighbouring columns, which stay together when a table is split.
    """

    title: str
    group: str = ""
    kind: Kind = "metric"

    @property
    def align(self) -> Literal["left", "center", "right"]:
        """Alignment: names left, check marks centred, numbers right."""
        return "left" if self.kind == "arm" else "center" if self.kind == "objective" else "right"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: Plain text, with the characters ± and −.
        best: Whether this is the best mean of its column.
        hole: Whether the number is missing.
    """

    text: str = ""
    best: bool = False
    hole: bool = False


@dataclass(frozen=True)
class ReportRow:
    """The row of an arm, or of features that were not trained (`reference`)."""

    cells: tuple[Cell, ...]
    reference: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table with its columns, rows, legend and notes.

    Attributes:
        legend: Explains how to read the table.
        notes: Which runs are missing and why, and other remarks.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[ReportRow, ...]
    legend: str
    notes: tuple[str, ...]

    def pick(self, numbers: Sequence[int]) -> ReportTable:
        """Return the table with only these columns, by index."""
        rows = tuple(ReportRow(tuple(row.cells[i] for i in numbers), row.reference) for row in self.rows)
        return ReportTable(self.title, tuple(self.columns[i] for i in numbers), rows, self.legend, self.notes)

    def groups(self) -> list[list[int]]:
        """Return the indices of neighbouring columns that share a heading."""
        groups: list[list[int]] = []
        for number, column in enumerate(self.columns):
            last = self.columns[number - 1] if number else None
            together = last is not None and column.group and (last.group, last.kind) == (column.group, column.kind)
            groups[-1].append(number) if together else groups.append([number])
        return groups


def make_table(results: Results) -> ReportTable:
    """Lay out a row for every arm, and below them the features that were not trained."""
    specs = [*_settings(results), *_metrics(results), *_costs()]
    columns = tuple(column for column, _ in specs)
    arms = [ReportRow(tuple(make_cell(arm) for _, make_cell in specs)) for arm in results.arms]
    references = [_reference(results, name, columns) for name in statistics.reference_names(results)]
    return ReportTable(
        f"Ablation of {results.recipe}", columns, (*arms, *references), legend(results), tuple(notes(results))
    )


ColumnSpec = tuple[Column, Callable[[ArmResult], Cell]]
"""A column, and a function that makes its cell for an arm."""


# ---------------------------------------------------------------------------------------- arms and settings


def _settings(results: Results) -> list[ColumnSpec]:
    arm: ColumnSpec = (Column("arm", kind="arm"), lambda item: Cell(item.name))
    return [arm, *map(_objective, results.objectives), *(_varied(results, key) for key in results.varied)]


def _objective(name: str) -> ColumnSpec:
    return Column(name, "objectives", "objective"), lambda arm: Cell(CHECK if name in arm.objectives else "")


def _varied(results: Results, key: str) -> ColumnSpec:
    return Column(key, "settings", "varied"), lambda arm: Cell(
        format_setting(setting(results, arm, key), MAX_CHARACTERS)
    )


def setting(results: Results, arm: ArmResult, key: str) -> Any:
    """Return an arm's value of a varied key: from its changes, or else the value that the other arms changed."""
    if key in arm.changes:
        return arm.changes[key][1]
    inner = {name.removeprefix(f"{key}."): new for name, (_, new) in arm.changes.items() if name.startswith(f"{key}.")}
    if inner:
        return inner
    return next((other.changes[key][0] for other in results.arms if key in other.changes), None)


def format_setting(value: Any, limit: int | None = None) -> str:
    """Format a setting as in TOML, with strings unquoted; a missing key is a dash."""
    if value is None:
        return DASH
    if isinstance(value, dict):
        text = ", ".join(f"{key} = {format_setting(item)}" for key, item in value.items())
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"


# ------------------------------------------------------------------------------------------------- metrics


def shown_metrics(results: Results) -> list[str]:
    """Return the metrics that differ between rows, or all metrics if none does."""
    differing = [name for name in results.metrics if not statistics.is_constant(results, name)]
    return differing or list(results.metrics)


def _metrics(results: Results) -> list[ColumnSpec]:
    return [spec for name in shown_metrics(results) for spec in _metric(results, name)]


def _metric(results: Results, name: str) -> list[ColumnSpec]:
    fmt, read, group = number_format(results, name), statistics.metric_reader(name), _heading(results, name)
    means = [mean.value for arm in results.arms if (mean := statistics.mean(arm, read))]
    best = max(means) if len(set(means)) > 1 else None

    def value(arm: ArmResult) -> Cell:
        mean = statistics.mean(arm, read)
        return Cell(fmt.mean(mean), mean.value == best) if mean else Cell("hole", hole=True)

    def difference(arm: ArmResult) -> Cell:
        return _difference(results, arm, read, fmt)

    return list(zip(_metric_columns(results, group), (value, difference), strict=True))


def _heading(results: Results, name: str) -> str:
    return f"{name}{number_format(results, name).unit}"


def _metric_columns(results: Results, group: str) -> list[Column]:
    several = len(results.seeds) > 1
    titles = ("mean ± std", "Δ to full [95 %]") if several else ("value", "Δ to full")
    return [Column(title, group) for title in titles]


def _difference(results: Results, arm: ArmResult, read: statistics.Reader, fmt: NumberFormat) -> Cell:
    """Return the difference to the full recipe; for a hole, the number of seeds with a value."""
    if statistics.complete_values(arm, read) is None:
        return Cell(_seed_count(arm, read), hole=True)
    difference = None if arm is results.full else statistics.difference(arm, read, results.full)
    return Cell(fmt.difference(difference)) if difference else Cell(DASH, hole=arm is not results.full)


def _seed_count(arm: ArmResult, read: statistics.Reader) -> str:
    present = sum(value is not None for value in statistics.seed_values(arm, read))
    return f"{present} of {len(arm.trials)} seeds"


def _reference(results: Results, features: str, columns: Sequence[Column]) -> ReportRow:
    """Return the row of features that were not trained, over the seeds of the full recipe."""
    cells = {_heading(results, name): _reference_cells(results, features, name) for name in shown_metrics(results)}
    row = [Cell(features) if column.kind == "arm" else Cell() for column in columns]
    for number, column in enumerate(columns):
        if column.kind == "metric":
            row[number] = cells[column.group].pop(0)
    return ReportRow(tuple(row), reference=True)


def _reference_cells(results: Results, features: str, name: str) -> list[Cell]:
    full, read, fmt = results.full, statistics.reference_reader(features, name), number_format(results, name)
    mean = statistics.mean(full, read)
    if mean is None:
        return [Cell("hole", hole=True), Cell(_seed_count(full, read), hole=True)]
    difference = statistics.difference(full, read, full, statistics.metric_reader(name))
    return [Cell(fmt.mean(mean)), Cell(fmt.difference(difference)) if difference else Cell(DASH, hole=True)]


# --------------------------------------------------------------------------------------------------- costs


def memory_gib(trial: Trial) -> float | None:
    """Return the peak memory of a trial in GiB."""
    return None if trial.peak_memory is None else gib(trial.peak_memory)


COSTS: tuple[tuple[str, statistics.Reader], ...] = (
    ("images per s", lambda trial: trial.images_per_s),
    ("memory (GiB)", memory_gib),
    ("hours", lambda trial: trial.hours),
)
"""Costs of a run besides its floating-point operations; tables show means over the seeds."""


def _costs() -> list[ColumnSpec]:
    flops: ColumnSpec = (Column("GFLOPs/image", "cost of a run", "cost"), lambda arm: Cell(short_number(arm.gflops)))
    return [flops, *(_cost(title, read) for title, read in COSTS)]


def _cost(title: str, read: statistics.Reader) -> ColumnSpec:
    def cell(arm: ArmResult) -> Cell:
        mean = statistics.mean(arm, read)
        return Cell(short_number(mean.value)) if mean else Cell(DASH, hole=True)

    return Column(title, "cost of a run", "cost"), cell


# ---------------------------------------------------------------------------------------- legend and notes


def legend(results: Results) -> str:
    """Explain how to read the metrics; empty if there are none."""
    if not results.metrics:
        return ""
    if len(results.seeds) == 1:
        return "One seed, so no spread and no interval. Δ is the difference to full at that seed."
    text = (
        f"Mean ± standard deviation over {len(results.seeds)} seeds. Δ is the mean difference to full at equal seeds, "
        "with its 95 % t interval; * marks an interval that excludes zero."
    )
    several = " Each interval is for a single comparison, without a correction for multiple comparisons."
    return text + several * (len(results.arms) > 2)


def notes(results: Results) -> list[str]:
    """Return which runs are missing and why, which metrics are left out, and the notes of the ablation."""
    lines = [line for arm in results.arms for line in _missing(arm)]
    if any(
        statistics.complete_values(results.full, statistics.metric_reader(name)) is None for name in results.metrics
    ):
        lines.append(f"{results.full.name} has a hole, so there are no differences to it.")
    left_out = [name for name in results.metrics if name not in shown_metrics(results)]
    return [*lines, *(_constant(results, name) for name in left_out), *results.notes]


def _missing(arm: ArmResult) -> list[str]:
    rest = [trial for trial in arm.trials if trial.state != "finished"]
    if rest and all(trial.state == "waiting" for trial in arm.trials):
        return [f"{arm.name}: not started"]
    return [f"{arm.name}, seed {trial.seed}: {trial.state}{f': {trial.reason}' * bool(trial.reason)}" for trial in rest]


def _constant(results: Results, name: str) -> str:
    mean = statistics.mean(results.full, statistics.metric_reader(name))
    value = number_format(results, name).mean(mean) if mean else "one value per seed"
    return f"{_heading(results, name)} is the same in every row: {value}"
