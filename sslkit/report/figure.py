"""Draw the figure of an ablation: per metric one panel with every seed and the means, and one with the differences."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sslkit.ablation import statistics
from sslkit.ablation.results import ArmResult, Results
from sslkit.report.numbers import NumberFormat, number_format
from sslkit.report.table import shown_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, BLUE, PAPER = "#1a1a1a", "#767676", "#0072b2", "#fefefe"
"""Colours of text and lines, of less important parts, of points (readable in grey and when colour-blind), and paper."""
_WIDTH, _ROW, _PANEL = 7.2, 0.27, 0.85
"""Sizes in inches: the width of the figure, the height of an arm's row, and of the rest of a panel."""
_NAME_CHARACTERS = 30
"""Most characters of an arm's name in one line."""
_RC = {
    "font.size": 8.0, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "figure.facecolor": PAPER, "axes.facecolor": "none", "svg.hashsalt": "sslkit", "svg.fonttype": "path",
    "axes.unicode_minus": True, "font.family": "DejaVu Sans",
}  # fmt: skip


def to_png(results: Results) -> bytes:
    """Draw the figure as PNG, with 200 dots per inch."""
    return _draw(results, "png", dpi=200, metadata={"Software": None})


def to_svg(results: Results) -> str:
    """Draw the figure as SVG; equal results give equal bytes."""
    return _draw(results, "svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}).decode()


def to_inline_svg(results: Results) -> str:
    """Draw the figure for an HTML page, without a background and in the colours of the page."""
    text = to_svg(results)
    text = text[text.index("<svg") :]
    for colour, css in ((INK, "currentColor"), (FAINT, "var(--faint)"), (BLUE, "var(--a1)"), (PAPER, "var(--paper)")):
        text = text.replace(colour, css)
    return text


def _draw(results: Results, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    with _settings():
        _figure(results).savefig(file, format=form, **options)
    return file.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    """Draw with matplotlib's defaults and these settings, whatever the user's matplotlibrc says; then restore all."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]  # its stubs list every key as a literal
        yield


def _figure(results: Results) -> Figure:
    """Return a figure with one row of two panels per metric."""
    from matplotlib.figure import Figure

    metrics = shown_metrics(results)
    height = max(1, len(metrics)) * (_PANEL + _ROW * len(results.arms)) + 0.3
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    if not metrics:
        figure.text(0.5, 0.5, _without_metrics(results), ha="center")
        return figure
    panels = figure.subplots(len(metrics), 2, squeeze=False, sharey=True, gridspec_kw={"width_ratios": [1, 1.15]})
    for name, (left, right) in zip(metrics, panels, strict=True):
        _means(left, results, name)
        _differences(right, results, name)
    _legend(figure, len(results.seeds))
    return figure


def _without_metrics(results: Results) -> str:
    """Say why there is nothing to compare; what the probes measure is known once a run is finished."""
    finished = sum(arm.finished for arm in results.arms)
    runs = sum(len(arm.trials) for arm in results.arms)
    if not finished:
        return f"none of the {runs} runs is finished, so there are no metrics to compare yet"
    return "the recipe has no probes, so there are no metrics to compare"


# -------------------------------------------------------------------------------------------------- panels


def _means(axes: Axes, results: Results, name: str) -> None:
    fmt, read = number_format(results, name), statistics.metric_reader(name)
    names = ["\n".join(textwrap.wrap(arm.name, _NAME_CHARACTERS)) for arm in results.arms]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{name}{fmt.unit}")
    axes.set_title(_untrained(results, name, fmt), loc="left", fontsize=7, color=FAINT)
    for row, arm in enumerate(results.arms):
        _seeds(axes, row, [fmt.factor * value for value in statistics.seed_values(arm, read) if value is not None])
        mean = statistics.mean(arm, read)
        if mean and mean.n > 1:
            axes.plot([fmt.factor * mean.value], [row], "|", color=INK, markersize=12, markeredgewidth=1.8, zorder=3)
    _grid(axes)


def _seeds(axes: Axes, row: int, values: Sequence[float]) -> None:
    """Draw a ring per seed, spread vertically."""
    if not values:
        return
    middle = (len(values) - 1) / 2
    heights = [row + 0.3 * (place - middle) / max(middle, 1) for place in range(len(values))]
    axes.plot(values, heights, "o", markerfacecolor="none", markeredgecolor=BLUE, markersize=4, markeredgewidth=0.9)


def _untrained(results: Results, name: str, fmt: NumberFormat) -> str:
    """Return the means of untrained features as text; drawn to scale, they would leave no room for the arms."""
    rows = statistics.reference_names(results)
    means = {row: statistics.mean(results.full, statistics.reference_reader(row, name)) for row in rows}
    return ", ".join(f"{row} {fmt.plain(mean.value)}" for row, mean in means.items() if mean)


def _differences(axes: Axes, results: Results, name: str) -> None:
    fmt, read = number_format(results, name), statistics.metric_reader(name)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_xlabel(f"difference to {results.full.name}{' (points)' if fmt.unit else ''}")
    for row, arm in enumerate(results.arms):
        difference = statistics.difference(arm, read, results.full)
        if difference is None:
            _write(axes, row, _hole(arm, results.full, read))
        elif arm is not results.full:
            _difference(axes, row, difference, fmt.factor)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    _grid(axes)


def _difference(axes: Axes, row: int, difference: statistics.Difference, factor: float) -> None:
    if difference.low is not None and difference.high is not None:
        axes.plot([factor * difference.low, factor * difference.high], [row, row], color=BLUE, linewidth=1.6)
    fill = BLUE if difference.excludes_zero else PAPER
    axes.plot([factor * difference.value], [row], "o", color=BLUE, markerfacecolor=fill, markersize=5.5, zorder=3)


def _hole(arm: ArmResult, full: ArmResult, read: statistics.Reader) -> str:
    present = sum(value is not None for value in statistics.seed_values(arm, read))
    return f"hole: {present} of {len(arm.trials)} seeds" if present < len(arm.trials) else f"{full.name} has a hole"


def _write(axes: Axes, row: int, text: str) -> None:
    axes.text(0.02, row, text, transform=axes.get_yaxis_transform(), va="center", color=FAINT, style="italic")


def _grid(axes: Axes) -> None:
    if not any(line.get_marker() != "None" for line in axes.lines):
        axes.set_xticks([])  # nothing is drawn, so the scale would be arbitrary
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
