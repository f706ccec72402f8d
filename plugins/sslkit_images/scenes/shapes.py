"""The objects: each category is a drawing of parts and a kind of texture; colours, proportions and pose are random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator
Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SIDE = 128
"""Side of the square that an object is drawn in, pixels; coordinates are shares of it."""


class Art:
    """A transparent square to draw on, in coordinates from 0 to 1."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.colour: Pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        self.mask: Pixels = np.zeros((SIDE, SIDE), np.uint8)
        self.palette = [_colour(rng) for _ in range(4)]

    def vary(self, value: float, share: float = 0.15) -> float:
        """Return a value moved by up to `share` of itself."""
        return value * (1 + share * (2 * float(self.rng.random()) - 1))

    def polygon(self, points: Points, paint: int | Pixels) -> None:
        """Fill a polygon with a colour of the palette, or with a texture."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(stencil, [_whole(points)], 255)
        self._stamp(stencil, paint)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, paint: int | Pixels, angle: float = 0, arc: float = 360
    ) -> None:
        """Fill an ellipse, or the first `arc` degrees of one."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.ellipse(stencil, _at(x, y), _at(max(rx, 0.01), max(ry, 0.01)), angle, 0, arc, 255, -1)
        self._stamp(stencil, paint)

    def ring(
        self, x: float, y: float, rx: float, ry: float, width: float, paint: int, start: float = 0, end: float = 360
    ) -> None:
        """Draw the outline of an ellipse."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.ellipse(stencil, _at(x, y), _at(rx, ry), 0, start, end, 255, max(1, round(width * SIDE)))
        self._stamp(stencil, paint)

    def line(self, points: Points, width: float, paint: int) -> None:
        """Draw a line through points."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.polylines(stencil, [_whole(points)], False, 255, max(1, round(width * SIDE)))
        self._stamp(stencil, paint)

    def box(self, left: float, top: float, right: float, bottom: float, paint: int | Pixels) -> None:
        """Fill a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint)

    def _stamp(self, stencil: Pixels, paint: int | Pixels) -> None:
        where = stencil > 0
        self.colour[where] = self.palette[paint] if isinstance(paint, int) else paint[where]
        self.mask[where] = 255

    def stripes(self, count: float, angle: float = 0, a: int = 0, b: int = 1) -> Pixels:
        """Return a texture of stripes; `angle` 0 makes them stand."""
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE
        phase = (x * np.cos(angle) + y * np.sin(angle)) * count + self.rng.random()
        return self._pick(phase % 1 < 0.5, a, b)

    def dots(self, count: float, a: int = 0, b: int = 1) -> Pixels:
        """Return a texture of round dots."""
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE * count
        return self._pick((x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.09, a, b)

    def checks(self, count: float, a: int = 0, b: int = 1) -> Pixels:
        """Return a texture of squares."""
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE * count
        return self._pick((np.floor(x) + np.floor(y)) % 2 == 0, a, b)

    def scales(self, count: float, a: int = 0, b: int = 1) -> Pixels:
        """Return a texture of overlapping arcs."""
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE * count
        x = x + 0.5 * (np.floor(y) % 2)
        return self._pick(np.hypot(x % 1 - 0.5, y % 1) < 0.42, a, b)

    def speckle(self, share: float = 0.3, a: int = 0, b: int = 1) -> Pixels:
        """Return a texture of fine blotches."""
        coarse = self.rng.random((SIDE // 5, SIDE // 5), np.float32)
        return self._pick(cv2.resize(coarse, (SIDE, SIDE)) < share, a, b)

    def _pick(self, where: npt.NDArray[np.bool_], a: int, b: int) -> Pixels:
        pair = np.array([self.palette[a], self.palette[b]], np.uint8)
        return pair[where.astype(np.int64)]


def _colour(rng: Rng) -> Colour:
    hsv = np.array([[[rng.integers(0, 180), rng.integers(40, 256), rng.integers(60, 256)]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x * SIDE), round(y * SIDE)


def _whole(points: Points) -> npt.NDArray[np.int32]:
    return np.asarray(np.rint(np.array(points) * SIDE), np.int32)


# ------------------------------------------------------------------------------------------------ categories


def mug(art: Art) -> None:
    """A striped cup with a handle and a dark mouth."""
    w, top = art.vary(0.24), art.vary(0.3)
    art.ring(0.5 + w, 0.55, 0.14, 0.16, 0.05, 2)
    art.box(0.5 - w, top, 0.5 + w, 0.84, art.stripes(art.vary(6)))
    art.ellipse(0.5, 0.84, w, 0.06, art.stripes(6))
    art.ellipse(0.5, top, w, 0.07, 3)


def bottle(art: Art) -> None:
    """A long neck on shoulders, with a label."""
    w, neck = art.vary(0.15), art.vary(0.05)
    right = [(0.5 + neck, 0.12), (0.5 + neck, 0.34), (0.5 + w, 0.46), (0.5 + w, 0.9)]
    art.polygon(right + [(1 - x, y) for x, y in reversed(right)], 0)
    art.box(0.5 - neck - 0.01, 0.07, 0.5 + neck + 0.01, 0.14, 2)
    art.box(0.5 - w, art.vary(0.55), 0.5 + w, 0.78, art.dots(10, 1, 3))


def fish(art: Art) -> None:
    """A scaly body with a forked tail, a fin and an eye."""
    h = art.vary(0.18, 0.25)
    art.polygon([(0.7, 0.5), (0.93, 0.5 - h), (0.87, 0.5), (0.93, 0.5 + h)], 2)
    art.polygon([(0.4, 0.5 - h), (0.55, 0.5 - 1.7 * h), (0.62, 0.5 - h * 0.7)], 2)
    art.ellipse(0.44, 0.5, 0.34, h, art.scales(art.vary(9)))
    art.ellipse(0.22, 0.47, 0.035, 0.035, 3)


def tree(art: Art) -> None:
    """Blobs of leaves on a trunk."""
    art.polygon([(0.45, 0.5), (0.55, 0.5), (0.58, 0.93), (0.42, 0.93)], 2)
    leaves = art.speckle(0.4)
    for _ in range(int(art.rng.integers(4, 8))):
        x, y = 0.5 + art.rng.uniform(-0.2, 0.2), 0.35 + art.rng.uniform(-0.17, 0.15)
        art.ellipse(x, y, 0.17, art.vary(0.15), leaves)


def house(art: Art) -> None:
    """Walls, a pointed roof, a door and windows."""
    w, eave = art.vary(0.3), art.vary(0.45, 0.1)
    art.box(0.5 - w, eave, 0.5 + w, 0.9, art.checks(art.vary(14), 0, 0))
    roof = [(0.5 - w - 0.06, eave), (0.5, art.vary(0.14)), (0.5 + w + 0.06, eave)]
    art.polygon(roof, art.stripes(12, np.pi / 2, 1, 2))
    art.box(0.44, 0.68, 0.56, 0.9, 3)
    for x in (0.5 - w * 0.65, 0.5 + w * 0.65):
        art.box(x - 0.06, 0.55, x + 0.06, 0.67, 3)
        art.line([(x, 0.55), (x, 0.67)], 0.012, 0)


def car(art: Art) -> None:
    """A body with a cabin, windows and two wheels."""
    roof = art.vary(0.34)
    art.polygon([(0.22, 0.52), (0.34, roof), (0.64, roof), (0.78, 0.52)], 0)
    art.polygon([(0.3, 0.51), (0.37, roof + 0.04), (0.49, roof + 0.04), (0.49, 0.51)], 2)
    art.polygon([(0.52, 0.51), (0.52, roof + 0.04), (0.62, roof + 0.04), (0.7, 0.51)], 2)
    art.box(0.08, 0.51, 0.92, 0.68, 0)
    for x in (art.vary(0.27, 0.08), art.vary(0.73, 0.04)):
        art.ellipse(x, 0.69, 0.1, 0.1, 3)
        art.ellipse(x, 0.69, 0.045, 0.045, 1)


def clock(art: Art) -> None:
    """A round face with marks and two hands."""
    r = art.vary(0.36, 0.08)
    art.ellipse(0.5, 0.5, r, r, 0)
    art.ellipse(0.5, 0.5, r * 0.83, r * 0.83, 1)
    for angle in np.arange(12) * np.pi / 6:
        art.line([(0.5 + k * r * np.cos(angle), 0.5 + k * r * np.sin(angle)) for k in (0.66, 0.78)], 0.02, 3)
    for length, width in ((0.4, 0.035), (0.62, 0.02)):
        angle = art.rng.uniform(0, 2 * np.pi)
        art.line([(0.5, 0.5), (0.5 + length * r * np.cos(angle), 0.5 + length * r * np.sin(angle))], width, 3)


def flower(art: Art) -> None:
    """Petals around a disc, on a stem with leaves."""
    art.line([(0.5, 0.4), (art.vary(0.5, 0.1), 0.95)], 0.035, 2)
    art.ellipse(0.6, 0.75, 0.12, 0.045, 2, -30)
    petals = int(art.rng.integers(5, 9))
    for angle in np.arange(petals) * 2 * np.pi / petals:
        x, y = 0.5 + 0.17 * np.cos(angle), 0.34 + 0.17 * np.sin(angle)
        art.ellipse(x, y, 0.13, art.vary(0.07), 0, float(np.degrees(angle)))
    art.ellipse(0.5, 0.34, 0.09, 0.09, art.dots(22, 1, 3))


def bird(art: Art) -> None:
    """A body with a head, a beak, a wing, a tail and legs."""
    art.polygon([(0.62, 0.52), (0.95, art.vary(0.5)), (0.92, 0.64), (0.6, 0.62)], 1)
    art.ellipse(0.48, 0.55, 0.23, art.vary(0.15), 0, 12)
    art.ellipse(0.27, 0.38, 0.12, 0.11, 0)
    art.polygon([(0.17, 0.35), (art.vary(0.03), 0.41), (0.17, 0.43)], 2)
    art.ellipse(0.54, 0.54, 0.15, 0.08, art.stripes(18, 0.6, 1, 3), 20)
    art.ellipse(0.24, 0.36, 0.022, 0.022, 3)
    for x in (0.44, 0.54):
        art.line([(x, 0.68), (x, 0.88), (x - 0.06, 0.9)], 0.022, 2)


def chair(art: Art) -> None:
    """A back of slats, a seat and legs."""
    back = art.vary(0.12)
    for x in (0.3, 0.43, 0.57, 0.7):
        art.line([(x, back), (x, 0.55)], 0.035, 0)
    art.box(0.27, back - 0.03, 0.73, back + 0.05, 0)
    art.polygon([(0.27, 0.53), (0.73, 0.53), (0.8, 0.63), (0.2, 0.63)], art.checks(14))
    for x in (0.23, 0.77):
        art.line([(x, 0.63), (x, 0.94)], 0.045, 0)
    for x in (0.33, 0.67):
        art.line([(x, 0.63), (x, 0.86)], 0.03, 2)


def umbrella(art: Art) -> None:
    """A canopy of wedges with a scalloped rim, and a hooked stick."""
    art.line([(0.5, 0.4), (0.5, 0.85)], 0.03, 3)
    art.ring(0.56, 0.85, 0.06, 0.06, 0.03, 3, 0, 180)
    r = art.vary(0.4, 0.1)
    for number in range(6):
        a, b = np.pi + np.pi * number / 6, np.pi + np.pi * (number + 1) / 6
        rim = [(0.5 + r * np.cos(t), 0.48 + 0.85 * r * np.sin(t)) for t in np.linspace(a, b, 6)]
        art.polygon([(0.5, 0.48), *rim], number % 2)
    for x in np.linspace(0.5 - r, 0.5 + r, 5)[:-1] + r / 4:
        art.ellipse(float(x), 0.48, r / 4, 0.05, 1, 180, 180)


def mushroom(art: Art) -> None:
    """A spotted cap on a pale stem with a ring."""
    w = art.vary(0.36)
    art.polygon([(0.42, 0.5), (0.58, 0.5), (0.63, 0.9), (0.37, 0.9)], 2)
    art.ellipse(0.5, 0.62, 0.13, 0.03, 3)
    art.ellipse(0.5, 0.5, w, art.vary(0.33), art.dots(art.vary(6.5)), 180, 180)


def boat(art: Art) -> None:
    """A hull under two sails and a flag."""
    hull = art.vary(0.68, 0.05)
    art.line([(0.5, 0.1), (0.5, hull)], 0.025, 3)
    art.polygon([(0.53, art.vary(0.14)), (0.53, hull - 0.04), (0.86, hull - 0.04)], art.stripes(8, np.pi / 2))
    art.polygon([(0.47, 0.22), (0.47, hull - 0.04), (0.2, hull - 0.04)], 2)
    art.polygon([(0.08, hull), (0.92, hull), (0.78, 0.87), (0.24, 0.87)], 3)
    art.polygon([(0.5, 0.06), (0.64, 0.1), (0.5, 0.14)], 0)


def cactus(art: Art) -> None:
    """A ribbed column with raised arms, in a pot."""
    ribs = art.stripes(24)
    for side in (-1, 1):
        x, y = 0.5 + side * art.vary(0.22), art.vary(0.42)
        art.box(min(0.5, x), y + 0.06, max(0.5, x), y + 0.14, ribs)
        art.ellipse(x, y, 0.06, 0.14, ribs)
    art.box(0.4, 0.25, 0.6, 0.8, ribs)
    art.ellipse(0.5, 0.25, 0.1, 0.12, ribs)
    art.polygon([(0.32, 0.74), (0.68, 0.74), (0.62, 0.93), (0.38, 0.93)], 3)


def lamp(art: Art) -> None:
    """A shade on a thin pole with a foot."""
    top, w = art.vary(0.1), art.vary(0.28)
    art.box(0.48, 0.4, 0.52, 0.88, 3)
    art.ellipse(0.5, 0.9, art.vary(0.2), 0.045, 3)
    shade = [(0.5 - w * 0.5, top), (0.5 + w * 0.5, top), (0.5 + w, 0.44), (0.5 - w, 0.44)]
    art.polygon(shade, art.stripes(13))


def kite(art: Art) -> None:
    """A diamond of four quarters with a tail of bows."""
    w, cross = art.vary(0.25), art.vary(0.3)
    corners = [(0.5, 0.06), (0.5 + w, cross), (0.5, 0.66), (0.5 - w, cross)]
    for number in range(4):
        art.polygon([corners[number], corners[(number + 1) % 4], (0.5, cross)], number % 3)
    tail = [(0.5 + 0.05 * np.sin(9 * t), 0.66 + 0.3 * t) for t in np.linspace(0, 1, 9)]
    art.line(tail, 0.016, 3)
    for x, y in tail[2::3]:
        art.polygon([(x - 0.07, y - 0.035), (x + 0.07, y + 0.035), (x + 0.07, y - 0.035), (x - 0.07, y + 0.035)], 1)


CATEGORIES: dict[str, Callable[[Art], None]] = {
    maker.__name__: maker
    for maker in (
        bird, boat, bottle, cactus, car, chair, clock, fish, flower, house, kite, lamp, mug, mushroom, tree, umbrella,
    )
}  # fmt: skip
"""Name -> how it is drawn."""


def draw(name: str, rng: Rng) -> tuple[Pixels, Pixels]:
    """Draw an object of a category.

    Returns:
        Colours (s s 3) and mask (s s), with s = `SIDE`.
    """
    art = Art(rng)
    CATEGORIES[name](art)
    return art.colour, art.mask
