"""Plot the curves of all arms as small SVG panels, one per logged quantity, all over the same steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sslkit.ablation.results import Results
from sslkit.report.curves import Range, ThinnedCurve, TrialCurves, axis_limits, axis_ticks, curve_names
from sslkit.report.markup import Markup, tag
from sslkit.report.numbers import MINUS
from sslkit.report.online_curves import is_online

COLOUR_COUNT = 8
"""Number of line colours, `--a0` to `--a7` in the style sheet; further arms reuse them with dashed lines."""
MAX_PANELS = 60
"""Most panels per heading of a page."""
_SCHEDULE = {"lr", "target_momentum", "images_per_s", "waiting"}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 190, 48, 8, 8, 22
Limits = tuple[float, float]
"""The two ends of an axis."""
Baselines = Mapping[str, Mapping[str, float]]
"""Name of a curve -> name of a level -> value."""
_DASHES = (None, "5 3", "2 2", "8 2 2 2")
_LEVEL_DASHES = ("6 4", "1 3", "8 3 1 3")


def panel_grid(
    results: Results, trial_curves: Sequence[TrialCurves], names: Sequence[str], baselines: Baselines | None = None
) -> Markup:
    """Return one panel per name.

    Args:
        results: The results that name the arms.
        trial_curves: Curves of the panels.
        names: Names of the curves.
        baselines: For curves of online probes, which lie over images seen and not over steps: name of a curve ->
            levels to draw in its panel.
    """
    every = [curve.steps for trial in trial_curves for curve in trial.curves.values()]
    first, last = min(steps[0] for steps in every), max(steps[-1] for steps in every)
    limits = (first, max(last, first + 1))
    over = "the steps" if baselines is None else "images seen"
    panels = [_panel(results, trial_curves, name, limits, over, (baselines or {}).get(name, {})) for name in names]
    return tag("div", *panels, class_="panels")


def names_by_heading(results: Results, trial_curves: Sequence[TrialCurves]) -> dict[str, list[str]]:
    """Return the names of the curves under each heading, in the order of the page; some headings may be empty.

    Scores of online probes are left out: they have panels of their own.
    """
    headings: dict[str, list[str]] = {"Losses": [], "Gradients": [], "Monitors": [], "Schedule and speed": []}
    for name in curve_names(trial_curves):
        if is_online(name):
            continue
        headings[_heading(name, results.objectives)].append(name)
    return headings


def _heading(name: str, objectives: Sequence[str]) -> str:
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if name in _SCHEDULE or last.endswith("_ms") or (first == "rankme" and last.endswith(("_n", "_d"))):
        return "Schedule and speed"
    if "grad" in last or first == "conflict":
        return "Gradients"
    return "Losses" if name == "loss" or first in objectives else "Monitors"


def legend(results: Results, trial_curves: Sequence[TrialCurves]) -> Markup:
    """Return a checkbox for each arm with curves; without scripts it is just a label."""
    arms = sorted({trial.arm for trial in trial_curves})
    items = [
        tag(
            "label",
            tag("input", type="checkbox", checked=True, data_arm=number),
            _line_swatch(_line_style(number)),
            results.arms[number].name,
        )
        for number in arms
    ]
    return tag("fieldset", tag("legend", "Arms"), *items, class_="arms")


def _line_swatch(style: Mapping[str, object]) -> Markup:
    line = tag("line", x1=0, x2=26, y1=5, y2=5, **style)
    return tag("svg", line, viewBox="0 0 26 10", width=26, height=10, aria_hidden="true")


def _line_style(arm: int) -> dict[str, object]:
    return {"class_": f"a{arm % COLOUR_COUNT}", "stroke_dasharray": _DASHES[arm // COLOUR_COUNT % len(_DASHES)]}


# -------------------------------------------------------------------------------------------------- one panel


def _panel(
    results: Results, trial_curves: Sequence[TrialCurves], name: str, steps: Limits, over: str,
    levels: Mapping[str, float],
) -> Markup:  # fmt: skip
    trials = [(trial, trial.curves[name]) for trial in trial_curves if name in trial.curves]
    numbers = [number for _, curve in trials for value in curve.values if value for number in value]
    if not numbers:
        return tag("figure", tag("figcaption", name), tag("p", "never finite", class_="faint"))
    numbers += levels.values()
    axis = axis_limits(numbers)
    outside = any(not axis[0] <= value <= axis[1] for value in numbers)
    arms = [results.arms[number].name for number in sorted({trial.arm for trial, _ in trials})]
    ranges = [_range(*item, steps, axis) for item in trials]
    means = [_mean(*item, steps, axis) for item in reversed(trials)]  # the full recipe is drawn on top
    plot = tag(
        "svg", *_axes(steps, axis), tag("svg", *_levels(levels, axis), *ranges, *means, **_box()),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{name} over {over}, for {', '.join(arms)}",
    )  # fmt: skip
    more = tag("small", " extreme values are cut off") if outside else None
    return tag("figure", tag("figcaption", name, more), plot, _level_legend(levels))


def _levels(levels: Mapping[str, float], axis: Limits) -> Iterator[Markup]:
    width = _WIDTH - _LEFT - _RIGHT
    for number, value in enumerate(levels.values()):
        y = round(_place(0, value, (0, 1), axis)[1], 1)
        yield tag("line", x1=0, x2=width, y1=y, y2=y, **_level_style(number))


def _level_legend(levels: Mapping[str, float]) -> Markup | None:
    if not levels:
        return None
    items = [
        tag("span", _line_swatch(_level_style(number)), f" {name} {value:.3f}")
        for number, (name, value) in enumerate(levels.items())
    ]
    return tag("p", *items, class_="levels faint")


def _level_style(number: int) -> dict[str, object]:
    return {"class_": "level", "stroke_dasharray": _LEVEL_DASHES[number % len(_LEVEL_DASHES)]}


def _box() -> dict[str, object]:
    """Return the attributes of the inner part of a panel, which clips everything outside."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return {"x": _LEFT, "y": _TOP, "width": width, "height": height, "viewBox": f"0 0 {width} {height}"}


def _range(trial: TrialCurves, curve: ThinnedCurve, steps: Limits, axis: Limits) -> Markup | None:
    """Return the shaded range of values; None if every interval has a single value."""
    if not any(value and value[0] < value[2] for value in curve.values):
        return None
    area = "".join(area_path(part, steps, axis) for part in segments(curve))
    return tag("path", d=area, data_arm=trial.arm, class_=f"range b{trial.arm % COLOUR_COUNT}")


def _mean(trial: TrialCurves, curve: ThinnedCurve, steps: Limits, axis: Limits) -> Markup:
    means = "".join(line_path([(step, value[1]) for step, value in part], steps, axis) for part in segments(curve))
    return tag("path", d=means, data_arm=trial.arm, **_line_style(trial.arm))


def segments(curve: ThinnedCurve) -> list[list[tuple[float, Range]]]:
    """Split a curve at its gaps."""
    parts: list[list[tuple[float, Range]]] = [[]]
    for step, value in zip(curve.steps, curve.values, strict=True):
        if value is not None:
            parts[-1].append((step, value))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def line_path(points: Sequence[tuple[float, float]], steps: Limits, axis: Limits) -> str:
    """Return an SVG path through (step, value) points; a single point is a dot."""
    places = [f"{x:.1f} {y:.1f}" for x, y in (_place(step, value, steps, axis) for step, value in points)]
    return f"M{'L'.join(places)}{'h0' * (len(places) == 1)}"


def area_path(part: Sequence[tuple[float, Range]], steps: Limits, axis: Limits) -> str:
    """Return a closed SVG path along the largest values and back along the smallest."""
    upper = [(step, value[2]) for step, value in part]
    lower = [(step, value[0]) for step, value in reversed(part)]
    return f"{line_path([*upper, *lower], steps, axis)}Z"


def _place(step: float, value: float, steps: Limits, axis: Limits) -> tuple[float, float]:
    """Return the position of a point in the box; points far outside are moved closer, to keep the numbers short."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    x = (step - steps[0]) / (steps[1] - steps[0]) * width
    y = (axis[1] - value) / (axis[1] - axis[0]) * height
    return x, min(max(y, -height), 2 * height)


def _axes(steps: Limits, axis: Limits) -> Iterator[Markup]:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    for value in axis_ticks(*axis):
        y = round(_TOP + (axis[1] - value) / (axis[1] - axis[0]) * height, 1)
        yield tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
        yield tag("text", _tick_label(value), x=_LEFT - 5, y=y + 3, text_anchor="end")
    for value in axis_ticks(*steps):
        x = round(_LEFT + (value - steps[0]) / (steps[1] - steps[0]) * width, 1)
        anchor = "end" if x > _WIDTH - 24 else "middle"
        yield tag("text", _tick_label(value), x=x, y=_HEIGHT - 6, text_anchor=anchor)
    yield tag("path", d=f"M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}", class_="axis")


def _tick_label(value: float) -> str:
    """Write the number of a tick, such as 20k for 20000."""
    number = round(value, 12)
    text = f"{number / 1000:g}k" if abs(number) >= 10_000 else f"{number:g}"
    return text.replace("-", MINUS)
