"""The objects of the scenes: one function per category. Colours, proportions and pose are random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sslkit_images.scenes.canvas import Canvas, Pixels, Rng


def mug(canvas: Canvas) -> None:
    """Draw a striped cup with a handle and a dark mouth."""
    w, top = canvas.vary(0.24), canvas.vary(0.3)
    canvas.ring(0.5 + w, 0.55, 0.14, 0.16, 0.05, 2)
    canvas.box(0.5 - w, top, 0.5 + w, 0.84, canvas.stripes(canvas.vary(6)))
    canvas.ellipse(0.5, 0.84, w, 0.06, canvas.stripes(6))
    canvas.ellipse(0.5, top, w, 0.07, 3)


def bottle(canvas: Canvas) -> None:
    """Draw a long neck on shoulders, with a label."""
    w, neck = canvas.vary(0.15), canvas.vary(0.05)
    right = [(0.5 + neck, 0.12), (0.5 + neck, 0.34), (0.5 + w, 0.46), (0.5 + w, 0.9)]
    canvas.polygon(right + [(1 - x, y) for x, y in reversed(right)], 0)
    canvas.box(0.5 - neck - 0.01, 0.07, 0.5 + neck + 0.01, 0.14, 2)
    canvas.box(0.5 - w, canvas.vary(0.55), 0.5 + w, 0.78, canvas.dots(10, 1, 3))


def fish(canvas: Canvas) -> None:
    """Draw a scaly body with a forked tail, a fin and an eye."""
    h = canvas.vary(0.18, 0.25)
    canvas.polygon([(0.7, 0.5), (0.93, 0.5 - h), (0.87, 0.5), (0.93, 0.5 + h)], 2)
    canvas.polygon([(0.4, 0.5 - h), (0.55, 0.5 - 1.7 * h), (0.62, 0.5 - h * 0.7)], 2)
    canvas.ellipse(0.44, 0.5, 0.34, h, canvas.scales(canvas.vary(9)))
    canvas.ellipse(0.22, 0.47, 0.035, 0.035, 3)


def tree(canvas: Canvas) -> None:
    """Draw blobs of leaves on a trunk."""
    canvas.polygon([(0.45, 0.5), (0.55, 0.5), (0.58, 0.93), (0.42, 0.93)], 2)
    leaves = canvas.speckle(0.4)
    for _ in range(int(canvas.rng.integers(4, 8))):
        x, y = 0.5 + canvas.rng.uniform(-0.2, 0.2), 0.35 + canvas.rng.uniform(-0.17, 0.15)
        canvas.ellipse(x, y, 0.17, canvas.vary(0.15), leaves)


def house(canvas: Canvas) -> None:
    """Draw walls, a pointed roof, a door and windows."""
    w, eave = canvas.vary(0.3), canvas.vary(0.45, 0.1)
    canvas.box(0.5 - w, eave, 0.5 + w, 0.9, canvas.checks(canvas.vary(14), 0, 0))
    roof = [(0.5 - w - 0.06, eave), (0.5, canvas.vary(0.14)), (0.5 + w + 0.06, eave)]
    canvas.polygon(roof, canvas.stripes(12, np.pi / 2, 1, 2))
    canvas.box(0.44, 0.68, 0.56, 0.9, 3)
    for x in (0.5 - w * 0.65, 0.5 + w * 0.65):
        canvas.box(x - 0.06, 0.55, x + 0.06, 0.67, 3)
        canvas.line([(x, 0.55), (x, 0.67)], 0.012, 0)


def car(canvas: Canvas) -> None:
    """Draw a body with a cabin, windows and two wheels."""
    roof = canvas.vary(0.34)
    canvas.polygon([(0.22, 0.52), (0.34, roof), (0.64, roof), (0.78, 0.52)], 0)
    canvas.polygon([(0.3, 0.51), (0.37, roof + 0.04), (0.49, roof + 0.04), (0.49, 0.51)], 2)
    canvas.polygon([(0.52, 0.51), (0.52, roof + 0.04), (0.62, roof + 0.04), (0.7, 0.51)], 2)
    canvas.box(0.08, 0.51, 0.92, 0.68, 0)
    for x in (canvas.vary(0.27, 0.08), canvas.vary(0.73, 0.04)):
        canvas.ellipse(x, 0.69, 0.1, 0.1, 3)
        canvas.ellipse(x, 0.69, 0.045, 0.045, 1)


def clock(canvas: Canvas) -> None:
    """Draw a round face with marks and two hands."""
    r = canvas.vary(0.36, 0.08)
    canvas.ellipse(0.5, 0.5, r, r, 0)
    canvas.ellipse(0.5, 0.5, r * 0.83, r * 0.83, 1)
    for angle in np.arange(12) * np.pi / 6:
        canvas.line([(0.5 + k * r * np.cos(angle), 0.5 + k * r * np.sin(angle)) for k in (0.66, 0.78)], 0.02, 3)
    for length, width in ((0.4, 0.035), (0.62, 0.02)):
        angle = canvas.rng.uniform(0, 2 * np.pi)
        canvas.line([(0.5, 0.5), (0.5 + length * r * np.cos(angle), 0.5 + length * r * np.sin(angle))], width, 3)


def flower(canvas: Canvas) -> None:
    """Draw petals around a disc, on a stem with leaves."""
    canvas.line([(0.5, 0.4), (canvas.vary(0.5, 0.1), 0.95)], 0.035, 2)
    canvas.ellipse(0.6, 0.75, 0.12, 0.045, 2, -30)
    petals = int(canvas.rng.integers(5, 9))
    for angle in np.arange(petals) * 2 * np.pi / petals:
        x, y = 0.5 + 0.17 * np.cos(angle), 0.34 + 0.17 * np.sin(angle)
        canvas.ellipse(x, y, 0.13, canvas.vary(0.07), 0, float(np.degrees(angle)))
    canvas.ellipse(0.5, 0.34, 0.09, 0.09, canvas.dots(22, 1, 3))


def bird(canvas: Canvas) -> None:
    """Draw a body with a head, a beak, a wing, a tail and legs."""
    canvas.polygon([(0.62, 0.52), (0.95, canvas.vary(0.5)), (0.92, 0.64), (0.6, 0.62)], 1)
    canvas.ellipse(0.48, 0.55, 0.23, canvas.vary(0.15), 0, 12)
    canvas.ellipse(0.27, 0.38, 0.12, 0.11, 0)
    canvas.polygon([(0.17, 0.35), (canvas.vary(0.03), 0.41), (0.17, 0.43)], 2)
    canvas.ellipse(0.54, 0.54, 0.15, 0.08, canvas.stripes(18, 0.6, 1, 3), 20)
    canvas.ellipse(0.24, 0.36, 0.022, 0.022, 3)
    for x in (0.44, 0.54):
        canvas.line([(x, 0.68), (x, 0.88), (x - 0.06, 0.9)], 0.022, 2)


def chair(canvas: Canvas) -> None:
    """Draw a back of slats, a seat and legs."""
    back = canvas.vary(0.12)
    for x in (0.3, 0.43, 0.57, 0.7):
        canvas.line([(x, back), (x, 0.55)], 0.035, 0)
    canvas.box(0.27, back - 0.03, 0.73, back + 0.05, 0)
    canvas.polygon([(0.27, 0.53), (0.73, 0.53), (0.8, 0.63), (0.2, 0.63)], canvas.checks(14))
    for x in (0.23, 0.77):
        canvas.line([(x, 0.63), (x, 0.94)], 0.045, 0)
    for x in (0.33, 0.67):
        canvas.line([(x, 0.63), (x, 0.86)], 0.03, 2)


def umbrella(canvas: Canvas) -> None:
    """Draw a canopy of wedges with a scalloped rim, and a hooked stick."""
    canvas.line([(0.5, 0.4), (0.5, 0.85)], 0.03, 3)
    canvas.ring(0.56, 0.85, 0.06, 0.06, 0.03, 3, 0, 180)
    r = canvas.vary(0.4, 0.1)
    for number in range(6):
        a, b = np.pi + np.pi * number / 6, np.pi + np.pi * (number + 1) / 6
        rim = [(0.5 + r * np.cos(t), 0.48 + 0.85 * r * np.sin(t)) for t in np.linspace(a, b, 6)]
        canvas.polygon([(0.5, 0.48), *rim], number % 2)
    for x in np.linspace(0.5 - r, 0.5 + r, 5)[:-1] + r / 4:
        canvas.ellipse(float(x), 0.48, r / 4, 0.05, 1, 180, 180)


def mushroom(canvas: Canvas) -> None:
    """Draw a spotted cap on a pale stem with a ring."""
    w = canvas.vary(0.36)
    canvas.polygon([(0.42, 0.5), (0.58, 0.5), (0.63, 0.9), (0.37, 0.9)], 2)
    canvas.ellipse(0.5, 0.62, 0.13, 0.03, 3)
    canvas.ellipse(0.5, 0.5, w, canvas.vary(0.33), canvas.dots(canvas.vary(6.5)), 180, 180)


def boat(canvas: Canvas) -> None:
    """Draw a hull under two sails and a flag."""
    hull = canvas.vary(0.68, 0.05)
    canvas.line([(0.5, 0.1), (0.5, hull)], 0.025, 3)
    canvas.polygon([(0.53, canvas.vary(0.14)), (0.53, hull - 0.04), (0.86, hull - 0.04)], canvas.stripes(8, np.pi / 2))
    canvas.polygon([(0.47, 0.22), (0.47, hull - 0.04), (0.2, hull - 0.04)], 2)
    canvas.polygon([(0.08, hull), (0.92, hull), (0.78, 0.87), (0.24, 0.87)], 3)
    canvas.polygon([(0.5, 0.06), (0.64, 0.1), (0.5, 0.14)], 0)


def cactus(canvas: Canvas) -> None:
    """Draw a ribbed column with raised arms, in a pot."""
    ribs = canvas.stripes(24)
    for side in (-1, 1):
        x, y = 0.5 + side * canvas.vary(0.22), canvas.vary(0.42)
        canvas.box(min(0.5, x), y + 0.06, max(0.5, x), y + 0.14, ribs)
        canvas.ellipse(x, y, 0.06, 0.14, ribs)
    canvas.box(0.4, 0.25, 0.6, 0.8, ribs)
    canvas.ellipse(0.5, 0.25, 0.1, 0.12, ribs)
    canvas.polygon([(0.32, 0.74), (0.68, 0.74), (0.62, 0.93), (0.38, 0.93)], 3)


def lamp(canvas: Canvas) -> None:
    """Draw a shade on a thin pole with a foot."""
    top, w = canvas.vary(0.1), canvas.vary(0.28)
    canvas.box(0.48, 0.4, 0.52, 0.88, 3)
    canvas.ellipse(0.5, 0.9, canvas.vary(0.2), 0.045, 3)
    shade = [(0.5 - w * 0.5, top), (0.5 + w * 0.5, top), (0.5 + w, 0.44), (0.5 - w, 0.44)]
    canvas.polygon(shade, canvas.stripes(13))


def kite(canvas: Canvas) -> None:
    """Draw a diamond of four quarters with a tail of bows."""
    w, cross = canvas.vary(0.25), canvas.vary(0.3)
    corners = [(0.5, 0.06), (0.5 + w, cross), (0.5, 0.66), (0.5 - w, cross)]
    for number in range(4):
        canvas.polygon([corners[number], corners[(number + 1) % 4], (0.5, cross)], number % 3)
    tail = [(0.5 + 0.05 * np.sin(9 * t), 0.66 + 0.3 * t) for t in np.linspace(0, 1, 9)]
    canvas.line(tail, 0.016, 3)
    for x, y in tail[2::3]:
        canvas.polygon([(x - 0.07, y - 0.035), (x + 0.07, y + 0.035), (x + 0.07, y - 0.035), (x - 0.07, y + 0.035)], 1)


CATEGORIES: dict[str, Callable[[Canvas], None]] = {
    function.__name__: function
    for function in (
        bird, boat, bottle, cactus, car, chair, clock, fish, flower, house, kite, lamp, mug, mushroom, tree, umbrella,
    )
}  # fmt: skip
"""Name -> function that draws the category."""


def draw(name: str, rng: Rng) -> tuple[Pixels, Pixels]:
    """Draw an object of a category.

    Returns:
        Colours (s s 3) and mask (s s), both uint8, with s = `SIDE`.
    """
    canvas = Canvas(rng)
    CATEGORIES[name](canvas)
    return canvas.colour, canvas.mask
