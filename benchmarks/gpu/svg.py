"""Draw a curve as SVG, with nothing but Python: the page is also written where a plotting library fails to import."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 40, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""
DASHES = ("6 3", "2 3", "9 3 2 3")

Point = Sequence[float]


class Scale(NamedTuple):
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw(title: str, x: str, lines: Mapping[str, Sequence[Point]], levels: Mapping[str, float]) -> str:
    """Return the SVG of some lines, and of dashed levels that they are compared with.

    A level "linear.top1, random weights" has the colour of the line "linear.top1".
    """
    points = [point for line in lines.values() for point in line]
    across = Scale(*limits([0.0, *(point[0] for point in points)], margin=0.0), LEFT, WIDTH - RIGHT)
    up = Scale(*limits([*(point[1] for point in points), *levels.values()]), HEIGHT - BOTTOM, TOP)
    colours = dict(zip(lines, COLOURS * len(lines), strict=False))
    parts = [*_grid(across, up), *_levels(levels, colours, across, up), *_lines(lines, colours, across, up)]
    text = [_text(LEFT, 18, title, weight="bold"), _text((LEFT + WIDTH) / 2, HEIGHT - 6, x, anchor="middle")]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, *text, "</svg>", ""])


def limits(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """Return the ends of an axis."""
    low, high = min(values), max(values)
    room = margin * (high - low) or (0.0 if high > low else 0.5)
    return low - room, high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round values, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _grid(across: Scale, up: Scale) -> Iterator[str]:
    for value in ticks(up.low, up.high):
        yield _line(LEFT, up(value), WIDTH - RIGHT, up(value), "#e5e5e5")
        yield _text(LEFT - 6, up(value) + 4, f"{value:g}" if abs(value) > 1e-12 else "0", anchor="end")
    for value in ticks(across.low, across.high):
        yield _text(across(value), HEIGHT - BOTTOM + 16, f"{value:,.0f}", anchor="middle")
    yield _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#777")


def _levels(levels: Mapping[str, float], colours: Mapping[str, str], across: Scale, up: Scale) -> Iterator[str]:
    kinds = list(dict.fromkeys(name.partition(", ")[2] for name in levels))
    for name, value in levels.items():
        line, _, kind = name.partition(", ")
        dash = DASHES[kinds.index(kind) % len(DASHES)]
        yield _line(across.start, up(value), across.end, up(value), colours.get(line, "#777"), dash)
    for place, kind in enumerate(kinds):
        left = WIDTH - RIGHT - 190 * (len(kinds) - place)
        yield _line(left, 32, left + 24, 32, "#555", DASHES[place % len(DASHES)])
        yield _text(left + 30, 36, kind)


def _lines(lines: Mapping[str, Sequence[Point]], colours: Mapping[str, str], across: Scale, up: Scale) -> Iterator[str]:
    for place, (name, line) in enumerate(lines.items()):
        colour = colours[name]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        if len(line) <= 40:
            yield from (f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in line)
        if len(lines) > 1:
            left = WIDTH - RIGHT - 130 * (len(lines) - place)
            yield _line(left, 14, left + 24, 14, colour)
            yield _text(left + 30, 18, name)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="1.5"{dashed}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    style = f'font-size="12" fill="#1a1a1a" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
