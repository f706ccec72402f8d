"""The figure of an ablation: per metric the arms' means with a dot per seed, and beside it the differences to full."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sslkit.ablation import statistics
from sslkit.ablation.results import ArmResult, Results
from sslkit.report.numbers import Style, style
from sslkit.report.table import shown_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, BLUE, PAPER = "#1a1a1a", "#767676", "#0072b2", "#fefefe"
"""Text and lines; what is less important; points (readable in grey, and to the colour-blind); the background."""
_WIDTH, _ROW, _PANEL = 7.2, 0.27, 0.85
"""Inches: of the figure, of an arm's row, and of what else a panel needs."""
_NAME = 30
"""Characters of an arm's name in one line."""
_RC = {
    "font.size": 8.0, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "figure.facecolor": PAPER, "axes.facecolor": "none", "svg.hashsalt": "sslkit", "svg.fonttype": "path",
    "axes.unicode_minus": True, "font.family": "DejaVu Sans",
}  # fmt: skip


def png(results: Results) -> bytes:
    """Draw as PNG, 200 dots per inch."""
    return _drawn(results, "png", dpi=200, metadata={"Software": None})


def svg(results: Results) -> str:
    """Draw as SVG; equal results give equal bytes."""
    return _drawn(results, "svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}).decode()


def inline_svg(results: Results) -> str:
    """Draw for an HTML page: without a background, and with colours that follow the page's own."""
    text = svg(results)
    text = text[text.index("<svg") :]
    for colour, css in ((INK, "currentColor"), (FAINT, "var(--faint)"), (BLUE, "var(--a1)"), (PAPER, "var(--paper)")):
        text = text.replace(colour, css)
    return text


def _drawn(results: Results, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    with _settings():
        _figure(results).savefig(file, format=form, **options)
    return file.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    """Draw with matplotlib's own defaults and ours, whatever a person's matplotlibrc says; put all back at the end."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]  # its stubs list every key as a literal
        yield


def _figure(results: Results) -> Figure:
    """Return one row of two panels per metric."""
    from matplotlib.figure import Figure

    metrics = shown_metrics(results)
    height = max(1, len(metrics)) * (_PANEL + _ROW * len(results.arms)) + 0.3
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    if not metrics:
        figure.text(0.5, 0.5, "the recipe has no probe: there is no metric to compare", ha="center")
        return figure
    panels = figure.subplots(len(metrics), 2, squeeze=False, sharey=True, gridspec_kw={"width_ratios": [1, 1.15]})
    for name, (left, right) in zip(metrics, panels, strict=True):
        _means(left, results, name)
        _differences(right, results, name)
    _legend(figure, len(results.seeds))
    return figure


# -------------------------------------------------------------------------------------------------- panels


def _means(axes: Axes, results: Results, name: str) -> None:
    how, read = style(results, name), statistics.metric_reader(name)
    names = ["\n".join(textwrap.wrap(arm.name, _NAME)) for arm in results.arms]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{name}{how.unit}")
    axes.set_title(_untrained(results, name, how), loc="left", fontsize=7, color=FAINT)
    for row, arm in enumerate(results.arms):
        _seeds(axes, row, [how.factor * value for value in statistics.seed_values(arm, read) if value is not None])
        found = statistics.mean(arm, read)
        if found and found.n > 1:
            axes.plot([how.factor * found.value], [row], "|", color=INK, markersize=12, markeredgewidth=1.8, zorder=3)
    _grid(axes)


def _seeds(axes: Axes, row: int, values: Sequence[float]) -> None:
    """Draw a ring per seed, a little apart from each other."""
    if not values:
        return
    middle = (len(values) - 1) / 2
    heights = [row + 0.3 * (place - middle) / max(middle, 1) for place in range(len(values))]
    axes.plot(values, heights, "o", markerfacecolor="none", markeredgecolor=BLUE, markersize=4, markeredgewidth=0.9)


def _untrained(results: Results, name: str, how: Style) -> str:
    """Write what untrained features reach; drawn to scale, they would leave no room for the arms."""
    rows = statistics.reference_names(results)
    means = {row: statistics.mean(results.full, statistics.reference_reader(row, name)) for row in rows}
    return ", ".join(f"{row} {how.plain(found.value)}" for row, found in means.items() if found)


def _differences(axes: Axes, results: Results, name: str) -> None:
    how, read = style(results, name), statistics.metric_reader(name)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_xlabel(f"difference to {results.full.name}{' (points)' if how.unit else ''}")
    for row, arm in enumerate(results.arms):
        found = statistics.difference(arm, read, results.full)
        if found is None:
            _say(axes, row, _hole(arm, results.full, read))
        elif arm is not results.full:
            _difference(axes, row, found, how.factor)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    _grid(axes)


def _difference(axes: Axes, row: int, found: statistics.Difference, factor: float) -> None:
    if found.low is not None and found.high is not None:
        axes.plot([factor * found.low, factor * found.high], [row, row], color=BLUE, linewidth=1.6)
    fill = BLUE if found.excludes_zero else PAPER
    axes.plot([factor * found.value], [row], "o", color=BLUE, markerfacecolor=fill, markersize=5.5, zorder=3)


def _hole(arm: ArmResult, full: ArmResult, read: statistics.Reader) -> str:
    there = sum(value is not None for value in statistics.seed_values(arm, read))
    return f"hole: {there} of {len(arm.trials)} seeds" if there < len(arm.trials) else f"{full.name} has a hole"


def _say(axes: Axes, row: int, words: str) -> None:
    axes.text(0.02, row, words, transform=axes.get_yaxis_transform(), va="center", color=FAINT, style="italic")


def _grid(axes: Axes) -> None:
    if not any(line.get_marker() != "None" for line in axes.lines):
        axes.set_xticks([])  # nothing is drawn, and a scale would be made up
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def _legend(figure: Figure, seeds: int) -> None:
    from matplotlib.lines import Line2D

    def mark(marker: str, label: str, colour: str = BLUE, **options: Any) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, label=label, **options)

    marks = [mark("o", "one seed", linestyle="none", markerfacecolor="none", markersize=4)]
    if seeds > 1:
        marks += [
            mark("|", "mean", INK, linestyle="none", markersize=10, markeredgewidth=1.8),
            mark("o", "95 % interval excludes zero", markersize=5.5),
            mark("o", "95 % interval contains zero", markersize=5.5, markerfacecolor=PAPER),
        ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=7)
