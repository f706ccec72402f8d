"""One scene: a place, objects in depth order with shadows, light, and a camera's faults."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from sslkit_images.scenes import shapes
from sslkit_images.scenes.backgrounds import KINDS, Floats, noise

Rng = np.random.Generator
VISIBLE = 0.3
"""Share of an object that must be seen for it to be annotated."""


class Scene(NamedTuple):
    """A rendered scene.

    Attributes:
        pixels: Shape (h, w, 3), uint8 RGB.
        kind: Name of the kind of scene.
        names: Category of each annotated object.
        masks: Its visible part, bool (h, w).
    """

    pixels: npt.NDArray[np.uint8]
    kind: str
    names: list[str]
    masks: list[npt.NDArray[np.bool_]]


def render(rng: Rng, side: int, co_occurrence: float, objects: tuple[int, int]) -> Scene:
    """Render a scene whose longer side is `side` pixels.

    Args:
        rng: Decides everything.
        side: Pixels.
        co_occurrence: Probability that an object is drawn from those at home in the scene; else from all.
        objects: Least and most objects.
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
        names.append(choose(kind, co_occurrence, rng))
        sizes.append(_place(canvas, owner, len(names) - 1, names[-1], float(depth), horizon, light, rng))
    masks = [owner == number for number in range(count)]
    seen = [n for n in range(count) if sizes[n] > 60 and masks[n].sum() >= VISIBLE * sizes[n]]
    return Scene(_expose(canvas, light, rng), kind, [names[n] for n in seen], [masks[n] for n in seen])


def choose(kind: str, co_occurrence: float, rng: Rng) -> str:
    """Draw a category: one at home in the scene with probability `co_occurrence`, else any."""
    at_home = rng.random() < co_occurrence
    return str(rng.choice(KINDS[kind].home if at_home else list(shapes.CATEGORIES)))


def _clutter(canvas: Floats, rng: Rng) -> None:
    """Scatter strokes and patches that are nobody's object."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(4, 14))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        colour = (canvas[y, x] * rng.uniform(0.5, 1.5, 3)).clip(0, 255).tolist()
        end = x + int(rng.integers(-30, 31)), y + int(rng.integers(-12, 13))
        cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, 5)), cv2.LINE_AA)


def _place(
    canvas: Floats, owner: npt.NDArray[np.int32], number: int, name: str, depth: float, horizon: float, light: float, rng: Rng
) -> int:
    """Draw one object with its shadow; near ones are larger and lower. Returns its whole area in pixels."""
    height, width = owner.shape
    colour, mask = shapes.draw(name, rng)
    size = min(height, width) * (0.22 + 0.3 * depth) * rng.uniform(0.8, 1.2)
    foot = np.array([rng.uniform(0.08, 0.92) * width, (horizon + (0.97 - horizon) * depth) * height - rng.random() ** 3 * height * 0.3])
    matrix = _pose(size, foot, rng)
    area = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_AREA)
    tint = cv2.warpAffine(_shaded(colour, light, rng), matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    _shadow(canvas, foot, size, light, rng)
    alpha = cv2.GaussianBlur(area, (3, 3), 0.6).astype(np.float32)[..., None] / 255
    canvas += (tint - canvas) * alpha
    owner[area > 127] = number
    return int((area > 127).sum())


def _pose(size: float, foot: npt.NDArray[np.float64], rng: Rng) -> npt.NDArray[np.float32]:
    """Return the affine map (2 3) from an object's square to the scene: flip, stretch, lean, shear."""
    angle, shear = rng.normal(0, 0.2), rng.normal(0, 0.1)
    stretch = np.array([rng.uniform(0.8, 1.2) * rng.choice([-1, 1]), rng.uniform(0.85, 1.15)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.array([[1, shear], [0, 1]])
    linear = turn * stretch * size / shapes.SIDE
    shift = foot - linear @ np.array([0.5, 0.92]) * shapes.SIDE
    return np.column_stack([linear, shift]).astype(np.float32)


def _shaded(colour: npt.NDArray[np.uint8], light: float, rng: Rng) -> Floats:
    """Light an object from one side, unevenly."""
    ramp = np.linspace(1 - 0.35 * light, 1 + 0.35 * light, shapes.SIDE, dtype=np.float32)[None, :, None]
    uneven = 0.8 + 0.4 * noise(shapes.SIDE, shapes.SIDE, 30, rng)[..., None]
    return (colour * ramp * uneven * np.float32(rng.uniform(0.7, 1.15))).clip(0, 255)


def _shadow(canvas: Floats, foot: npt.NDArray[np.float64], size: float, light: float, rng: Rng) -> None:
    """Darken the ground away from the light, softly."""
    stencil = np.zeros(canvas.shape[:2], np.float32)
    centre = round(foot[0] - light * size * 0.25), round(foot[1] + size * 0.02)
    cv2.ellipse(stencil, centre, (max(2, round(size * 0.38)), max(1, round(size * 0.1))), 0, 0, 360, 1.0, -1)
    soft = cv2.GaussianBlur(stencil, (0, 0), max(1.0, size * 0.04))
    canvas *= 1 - np.float32(rng.uniform(0.3, 0.6)) * soft[..., None]


def _expose(canvas: Floats, light: float, rng: Rng) -> npt.NDArray[np.uint8]:
    """Add light across the scene, a colour cast, blur and sensor noise."""
    height, width = canvas.shape[:2]
    ramp = np.linspace(1 - 0.2 * light, 1 + 0.2 * light, width, dtype=np.float32)[None, :, None]
    image = canvas * ramp * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    image += rng.normal(0, rng.uniform(1, 6), (height, width, 1)).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8)
