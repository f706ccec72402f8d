"""The curves of all arms as small SVG plots, one per logged quantity, all over the same steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sslkit.ablation.results import Results
from sslkit.report.curves import Thinned, TrialCurves, Value, limits, names, ticks
from sslkit.report.markup import Markup, tag
from sslkit.report.numbers import MINUS

COLOURS = 8
"""Line colours, `--a0` to `--a7` in the style sheet; further arms repeat them with dashes."""
SHOWN = 60
"""Plots on a page, at most."""
_SCHEDULE = {"lr", "target_momentum", "images_per_s", "waiting"}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 190, 48, 8, 8, 22
Ends = tuple[float, float]
"""Of an axis."""
_DASHES = (None, "5 3", "2 2", "8 2 2 2")


def grid(results: Results, found: Sequence[TrialCurves], wanted: Sequence[str]) -> Markup:
    """Return a plot for each of these quantities."""
    every = [curve.steps for trial in found for curve in trial.curves.values()]
    first, last = min(steps[0] for steps in every), max(steps[-1] for steps in every)
    plots = [_figure(results, found, name, (first, max(last, first + 1))) for name in wanted]
    return tag("div", *plots, class_="panels")


def groups(results: Results, found: Sequence[TrialCurves]) -> dict[str, list[str]]:
    """Return the quantities that were logged under headings, in the order of the page; some may be empty."""
    made: dict[str, list[str]] = {"Losses": [], "Gradients": [], "Monitors": [], "Schedule and speed": []}
    for name in names(found):
        made[_heading(name, results.objectives)].append(name)
    return made


def _heading(name: str, objectives: Sequence[str]) -> str:
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if name in _SCHEDULE or last.endswith("_ms") or (first == "rankme" and last.endswith(("_n", "_d"))):
        return "Schedule and speed"
    if "grad" in last or first == "conflict":
        return "Gradients"
    return "Losses" if name == "loss" or first in objectives else "Monitors"


def legend(results: Results, found: Sequence[TrialCurves]) -> Markup:
    """Return a switch for each arm that has curves; without scripts they are plain labels."""
    shown = sorted({trial.arm for trial in found})
    items = [
        tag(
            "label",
            tag("input", type="checkbox", checked=True, data_arm=number),
            _swatch(number),
            results.arms[number].name,
        )
        for number in shown
    ]
    return tag("fieldset", tag("legend", "Arms"), *items, class_="arms")


def _swatch(arm: int) -> Markup:
    line = tag("line", x1=0, x2=26, y1=5, y2=5, **_look(arm))
    return tag("svg", line, viewBox="0 0 26 10", width=26, height=10, aria_hidden="true")


def _look(arm: int) -> dict[str, object]:
    return {"class_": f"a{arm % COLOURS}", "stroke_dasharray": _DASHES[arm // COLOURS % len(_DASHES)]}


# -------------------------------------------------------------------------------------------------- one plot


def _figure(results: Results, found: Sequence[TrialCurves], name: str, steps: Ends) -> Markup:
    trials = [(trial, trial.curves[name]) for trial in found if name in trial.curves]
    numbers = [number for _, curve in trials for value in curve.values if value for number in value]
    if not numbers:
        return tag("figure", tag("figcaption", name), tag("p", "never finite", class_="faint"))
    axis = limits(numbers)
    outside = any(not axis[0] <= value <= axis[1] for value in numbers)
    arms = [results.arms[number].name for number in sorted({trial.arm for trial, _ in trials})]
    ranges = [_range(*item, steps, axis) for item in trials]
    means = [_mean(*item, steps, axis) for item in reversed(trials)]  # the full recipe's on top
    plot = tag(
        "svg", *_axes(steps, axis), tag("svg", *ranges, *means, **_box()),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{name} over the steps, for {', '.join(arms)}",
    )  # fmt: skip
    more = tag("small", " the outermost values are cut off") if outside else None
    return tag("figure", tag("figcaption", name, more), plot)


def _box() -> dict[str, object]:
    """Return the inner part of a plot; what lies outside is cut off."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return {"x": _LEFT, "y": _TOP, "width": width, "height": height, "viewBox": f"0 0 {width} {height}"}


def _range(trial: TrialCurves, curve: Thinned, steps: Ends, axis: Ends) -> Markup | None:
    """Return the shade over all values, where stretches hold several."""
    if not any(value and value[0] < value[2] for value in curve.values):
        return None
    area = "".join(outline(part, steps, axis) for part in runs(curve))
    return tag("path", d=area, data_arm=trial.arm, class_=f"range b{trial.arm % COLOURS}")


def _mean(trial: TrialCurves, curve: Thinned, steps: Ends, axis: Ends) -> Markup:
    means = "".join(line([(step, value[1]) for step, value in part], steps, axis) for part in runs(curve))
    return tag("path", d=means, data_arm=trial.arm, **_look(trial.arm))


def runs(curve: Thinned) -> list[list[tuple[float, Value]]]:
    """Return the stretches in groups without a gap."""
    found: list[list[tuple[float, Value]]] = [[]]
    for step, value in zip(curve.steps, curve.values, strict=True):
        if value is not None:
            found[-1].append((step, value))
        elif found[-1]:
            found.append([])
    return [part for part in found if part]


def line(points: Sequence[tuple[float, float]], steps: Ends, axis: Ends) -> str:
    """Return an SVG path through (step, value) points; a single one is a dot."""
    places = [f"{x:.1f} {y:.1f}" for x, y in (_place(step, value, steps, axis) for step, value in points)]
    return f"M{'L'.join(places)}{'h0' * (len(places) == 1)}"


def outline(part: Sequence[tuple[float, Value]], steps: Ends, axis: Ends) -> str:
    """Return a closed SVG path around the smallest and the largest values."""
    upper = [(step, value[2]) for step, value in part]
    lower = [(step, value[0]) for step, value in reversed(part)]
    return f"{line([*upper, *lower], steps, axis)}Z"


def _place(step: float, value: float, steps: Ends, axis: Ends) -> tuple[float, float]:
    """Return a point inside the box; what is far outside stays near it, as numbers must stay short."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    x = (step - steps[0]) / (steps[1] - steps[0]) * width
    y = (axis[1] - value) / (axis[1] - axis[0]) * height
    return x, min(max(y, -height), 2 * height)


def _axes(steps: Ends, axis: Ends) -> Iterator[Markup]:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    for value in ticks(*axis):
        y = round(_TOP + (axis[1] - value) / (axis[1] - axis[0]) * height, 1)
        yield tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
        yield tag("text", _tick(value), x=_LEFT - 5, y=y + 3, text_anchor="end")
    for value in ticks(*steps):
        x = round(_LEFT + (value - steps[0]) / (steps[1] - steps[0]) * width, 1)
        anchor = "end" if x > _WIDTH - 24 else "middle"
        yield tag("text", _tick(value), x=x, y=_HEIGHT - 6, text_anchor=anchor)
    yield tag("path", d=f"M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}", class_="axis")


def _tick(value: float) -> str:
    """Write a tick's number: short, 20k for 20000."""
    number = round(value, 12)
    text = f"{number / 1000:g}k" if abs(number) >= 10_000 else f"{number:g}"
    return text.replace("-", MINUS)
