"""A square canvas for one object of a scene: shapes filled with random colours and textures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator
Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SIDE = 128
"""Side of the square that an object is drawn in, pixels."""


class Canvas:
    """A transparent square to draw on. Coordinates run from 0 to 1."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.colour: Pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        self.mask: Pixels = np.zeros((SIDE, SIDE), np.uint8)
        self.palette = [_random_colour(rng) for _ in range(4)]

    def vary(self, value: float, share: float = 0.15) -> float:
        """Return a value changed at random by up to `share` of itself."""
        return value * (1 + share * (2 * float(self.rng.random()) - 1))

    def polygon(self, points: Points, paint: int | Pixels) -> None:
        """Fill a polygon with a colour of the palette (by index) or a texture."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(stencil, [_to_pixels(points)], 255)
        self._stamp(stencil, paint)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, paint: int | Pixels, angle: float = 0, arc: float = 360
    ) -> None:
        """Fill an ellipse, or its first `arc` degrees."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.ellipse(stencil, _to_pixel(x, y), _to_pixel(max(rx, 0.01), max(ry, 0.01)), angle, 0, arc, 255, -1)
        self._stamp(stencil, paint)

    def ring(
        self, x: float, y: float, rx: float, ry: float, width: float, paint: int, start: float = 0, end: float = 360
    ) -> None:
        """Draw the outline of an ellipse."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.ellipse(stencil, _to_pixel(x, y), _to_pixel(rx, ry), 0, start, end, 255, max(1, round(width * SIDE)))
        self._stamp(stencil, paint)

    def line(self, points: Points, width: float, paint: int) -> None:
        """Draw a line through points."""
        stencil = np.zeros((SIDE, SIDE), np.uint8)
        cv2.polylines(stencil, [_to_pixels(points)], False, 255, max(1, round(width * SIDE)))
        self._stamp(stencil, paint)

    def box(self, left: float, top: float, right: float, bottom: float, paint: int | Pixels) -> None:
        """Fill a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint)

    def _stamp(self, stencil: Pixels, paint: int | Pixels) -> None:
        inside = stencil > 0
        self.colour[inside] = self.palette[paint] if isinstance(paint, int) else paint[inside]
        self.mask[inside] = 255

    def stripes(self, count: float, angle: float = 0, a: int = 0, b: int = 1) -> Pixels:
        """Return a texture of stripes; they are vertical at `angle` 0."""
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


def _random_colour(rng: Rng) -> Colour:
    hsv = np.array([[[rng.integers(0, 180), rng.integers(40, 256), rng.integers(60, 256)]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _to_pixel(x: float, y: float) -> tuple[int, int]:
    return round(x * SIDE), round(y * SIDE)


def _to_pixels(points: Points) -> npt.NDArray[np.int32]:
    return np.asarray(np.rint(np.array(points) * SIDE), np.int32)
