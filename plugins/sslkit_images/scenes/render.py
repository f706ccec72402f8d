"""Render one scene: background, objects in depth order with shadows, light, blur and sensor noise."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from sslkit_images.scenes import shapes
from sslkit_images.scenes.backgrounds import KINDS, Floats, noise
from sslkit_images.scenes.canvas import SIDE

Rng = np.random.Generator
MIN_VISIBLE = 0.3
"""Share of an object that must be visible for it to be annotated."""

FLYING = ("bird", "kite")
"""Categories that may be in the air, and have no visible shadow."""


class Scene(NamedTuple):
    """A rendered scene.

    Attributes:
        pixels: Shape (h, w, 3), uint8 RGB.
        kind: Name of the kind of scene.
        names: Category of each annotated object.
        masks: Visible part of each annotated object, bool (h, w).
    """

    pixels: npt.NDArray[np.uint8]
    kind: str
    names: list[str]
    masks: list[npt.NDArray[np.bool_]]


def render(rng: Rng, side: int, co_occurrence: float, objects: tuple[int, int]) -> Scene:
    """Render a scene.

    Args:
        rng: Random generator of the scene.
        side: Longer side, pixels.
        co_occurrence: Probability of drawing an object from the categories typical of the scene, rather than from all.
        objects: Minimum and maximum number of objects.
    """
    kind = str(rng.choice(list(KINDS)))
    ratio = rng.uniform(0.7, 1.0)
    height, width = (side, round(side * ratio)) if rng.random() < 0.3 else (round(side * ratio), side)
    horizon = rng.uniform(0.35, 0.6)
    canvas = KINDS[kind].paint(height, width, horizon, rng)
    _clutter(canvas, rng)
    light = rng.uniform(-1, 1)
    count = int(rng.integers(objects[0], objects[1] + 1))
    owner = np.full((height, width), -1, np.int32)
    names, sizes = [], []
    for depth in np.sort(rng.random(count)):
        names.append(choose_category(kind, co_occurrence, rng))
        sizes.append(_place(canvas, owner, len(names) - 1, names[-1], float(depth), horizon, light, rng))
    masks = [owner == number for number in range(count)]
    visible = [n for n in range(count) if sizes[n] > 60 and masks[n].sum() >= MIN_VISIBLE * sizes[n]]
    return Scene(_expose(canvas, light, rng), kind, [names[n] for n in visible], [masks[n] for n in visible])


def choose_category(kind: str, co_occurrence: float, rng: Rng) -> str:
    """Draw a category: a typical one of the scene with probability `co_occurrence`, otherwise any."""
    typical = rng.random() < co_occurrence
    return str(rng.choice(KINDS[kind].typical_objects if typical else list(shapes.CATEGORIES)))


def _clutter(canvas: Floats, rng: Rng) -> None:
    """Draw strokes and patches that belong to no object."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(4, 14))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        colour = (canvas[y, x] * rng.uniform(0.5, 1.5, 3)).clip(0, 255).tolist()
        end = x + int(rng.integers(-30, 31)), y + int(rng.integers(-12, 13))
        cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, 5)), cv2.LINE_AA)


def _place(
    canvas: Floats, owner: npt.NDArray[np.int32], number: int, name: str, depth: float, horizon: float, light: float,
    rng: Rng,
) -> int:  # fmt: skip
    """Draw one object with its shadow, larger and lower if it is nearer; return its full area in pixels."""
    height, width = owner.shape
    colour, mask = shapes.draw(name, rng)
    size = min(height, width) * (0.22 + 0.3 * depth) * rng.uniform(0.8, 1.2)
    lift = rng.random() * (0.4 if name in FLYING else 0.04) * height
    foot = np.array([rng.uniform(0.08, 0.92) * width, (horizon + (0.97 - horizon) * depth) * height - lift])
    matrix, part = _window(_pose(size, foot, rng), height, width)
    shape = part[1].stop - part[1].start, part[0].stop - part[0].start
    area = cv2.warpAffine(mask, matrix, shape, flags=cv2.INTER_LINEAR)
    tint = cv2.warpAffine(_shaded(colour, light, rng), matrix, shape, borderMode=cv2.BORDER_REPLICATE)
    if name not in FLYING:
        _shadow(canvas, foot, size, light, rng)
    alpha = cv2.GaussianBlur(area, (3, 3), 0.6).astype(np.float32)[..., None] / 255
    canvas[part] += (tint - canvas[part]) * alpha
    owner[part][area > 127] = number
    return int((area > 127).sum())


def _pose(size: float, foot: npt.NDArray[np.float64], rng: Rng) -> npt.NDArray[np.float64]:
    """Draw an affine map (2 3) from an object's square to the scene: flip, stretch, rotation, shear."""
    angle, shear = rng.normal(0, 0.3), rng.normal(0, 0.15)
    stretch = np.array([rng.uniform(0.7, 1.3) * rng.choice([-1, 1]), rng.uniform(0.8, 1.2)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.array([[1, shear], [0, 1]])
    linear = turn * stretch * size / SIDE
    shift = foot - linear @ np.array([0.5, 0.92]) * SIDE
    return np.column_stack([linear, shift])


def _window(matrix: npt.NDArray[np.float64], height: int, width: int) -> tuple[Floats, tuple[slice, slice]]:
    """Return the affine map into the part of the scene that an object's square covers, and that part."""
    corners = matrix @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1 / SIDE] * 4]) * SIDE
    low = np.clip(np.floor(corners.min(axis=1)) - 2, 0, (width - 2, height - 2)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1)) + 2, low + 2, (width, height)).astype(int)
    moved = matrix - np.column_stack([np.zeros((2, 2)), low])
    return moved.astype(np.float32), (slice(low[1], high[1]), slice(low[0], high[0]))


def _shaded(colour: npt.NDArray[np.uint8], light: float, rng: Rng) -> Floats:
    """Light an object from one side, unevenly."""
    ramp = np.linspace(1 - 0.35 * light, 1 + 0.35 * light, SIDE, dtype=np.float32)[None, :, None]
    uneven = 0.8 + 0.4 * noise(SIDE, SIDE, 30, rng)[..., None]
    return (colour * ramp * uneven * np.float32(rng.uniform(0.7, 1.15))).clip(0, 255)


def _shadow(canvas: Floats, foot: npt.NDArray[np.float64], size: float, light: float, rng: Rng) -> None:
    """Draw a soft shadow on the side away from the light."""
    top, left = (max(0, round(at - reach * size)) for at, reach in ((foot[1], 0.4), (foot[0], 0.9)))
    canvas = canvas[top : top + round(0.8 * size), left : left + round(1.8 * size)]
    if not canvas.size:
        return
    stencil = np.zeros(canvas.shape[:2], np.float32)
    centre = round(foot[0] - light * size * 0.25) - left, round(foot[1] + size * 0.02) - top
    cv2.ellipse(stencil, centre, (max(2, round(size * 0.38)), max(1, round(size * 0.1))), 0, 0, 360, 1.0, -1)
    soft = cv2.GaussianBlur(stencil, (0, 0), max(1.0, size * 0.04))
    canvas *= 1 - np.float32(rng.uniform(0.3, 0.6)) * soft[..., None]


def _expose(canvas: Floats, light: float, rng: Rng) -> npt.NDArray[np.uint8]:
    """Add a light gradient, a colour cast, blur and sensor noise."""
    height, width = canvas.shape[:2]
    ramp = np.linspace(1 - 0.2 * light, 1 + 0.2 * light, width, dtype=np.float32)[None, :, None]
    image = canvas * ramp * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    grain = rng.normal(0, rng.uniform(1, 6), (height, width, 1)).astype(np.float32)
    return np.asarray((blurred + grain).clip(0, 255), np.uint8)
