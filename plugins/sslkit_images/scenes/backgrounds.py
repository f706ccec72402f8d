"""Backgrounds: each kind of scene has its own layout, textures and typical objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rng = np.random.Generator


@dataclass(frozen=True)
class SceneKind:
    """A kind of scene: the function that paints its background, and its typical objects."""

    paint: Callable[[int, int, float, Rng], Floats]
    typical_objects: tuple[str, ...]


def noise(height: int, width: int, grain: float, rng: Rng) -> Floats:
    """Draw smooth noise in [0, 1], with blotches of about `grain` pixels."""
    shape = max(2, round(height / grain)), max(2, round(width / grain))
    return np.clip(cv2.resize(rng.random(shape, np.float32), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def hsv(rng: Rng, low: int, high: int, saturation: tuple[int, int], value: tuple[int, int]) -> Floats:
    """Draw a random colour (3,) with hue in [low, high] (of 180), saturation and value in their ranges (of 255)."""
    pixel = np.array([[[rng.integers(low, high + 1) % 180, rng.integers(*saturation), rng.integers(*value)]]], np.uint8)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def _blend(a: Floats, b: Floats, where: npt.NDArray[Any]) -> Floats:
    return a + (b - a) * where.astype(np.float32)[..., None]


def _rgb(red: float, green: float, blue: float) -> Floats:
    return np.array([red, green, blue], np.float32)


def _fade(height: int, width: int, top: Floats, bottom: Floats) -> Floats:
    ramp = np.linspace(0, 1, max(1, height), dtype=np.float32)[:, None]
    return _blend(top, bottom, np.repeat(ramp, width, 1))


Paint = Callable[[int, int, float, Rng], Floats]
"""Called as paint(height, width, horizon, rng); returns (h w 3), 0 to 255."""


def _outdoors(sky: Callable[[Rng], tuple[Floats, Floats]], ground: Callable[[int, int, Rng], Floats]) -> Paint:
    def paint(height: int, width: int, horizon: float, rng: Rng) -> Floats:
        line = round(height * horizon)
        top = _fade(line, width, *sky(rng))
        clouds = np.clip(noise(max(2, line), width, 40, rng)[:line] * 2 - 0.9, 0, 1)
        return np.concatenate([_blend(top, _rgb(235, 235, 238), clouds * 0.7), ground(height - line, width, rng)])

    return paint


def _sky(rng: Rng) -> tuple[Floats, Floats]:
    return hsv(rng, 95, 115, (60, 170), (150, 250)), hsv(rng, 10, 110, (10, 80), (190, 255))


def _grass(height: int, width: int, rng: Rng) -> Floats:
    blades = noise(height, width, 3, rng) * 0.6 + noise(height, width, 30, rng) * 0.4
    return _blend(hsv(rng, 30, 60, (90, 200), (60, 130)), hsv(rng, 30, 60, (80, 200), (130, 220)), blades)


def _sand(height: int, width: int, rng: Rng) -> Floats:
    ripples = 0.5 + 0.5 * np.sin(np.arange(height)[:, None] / rng.uniform(3, 7) + 6 * noise(height, width, 50, rng))
    return _blend(hsv(rng, 10, 25, (60, 130), (150, 200)), hsv(rng, 12, 28, (40, 110), (190, 250)), ripples)


def _sea(height: int, width: int, rng: Rng) -> Floats:
    split = round(height * rng.uniform(0.35, 0.6))
    swell = 8 * noise(max(2, split), width, 25, rng)[:split]
    waves = 0.5 + 0.5 * np.sin(np.arange(split)[:, None] / rng.uniform(1.5, 3) + swell)
    water = _blend(hsv(rng, 85, 115, (100, 220), (80, 150)), hsv(rng, 85, 110, (60, 150), (150, 230)), waves)
    return np.concatenate([water, _sand(height - split, width, rng)])


def _road(height: int, width: int, rng: Rng) -> Floats:
    ground = _blend(_rgb(70, 70, 74), _rgb(110, 108, 105), noise(height, width, 4, rng))
    kerb = width, round(height * rng.uniform(0.15, 0.35))
    cv2.rectangle(ground, (0, 0), kerb, hsv(rng, 0, 179, (5, 40), (120, 190)).tolist(), -1)
    for x in range(0, width, 44):
        cv2.rectangle(ground, (x, round(height * 0.7)), (x + 24, round(height * 0.76)), (225, 222, 200), -1)
    return ground


def street(height: int, width: int, horizon: float, rng: Rng) -> Floats:
    """Paint a row of facades with windows behind a road."""
    image = _outdoors(_sky, _road)(height, width, horizon, rng)
    line, x = round(height * horizon), 0
    while x < width:
        w, top = int(rng.integers(40, 110)), round(line * rng.uniform(0.05, 0.6))
        cv2.rectangle(image, (x, top), (x + w, line), hsv(rng, 0, 179, (20, 110), (90, 210)).tolist(), -1)
        pane, step = hsv(rng, 0, 179, (10, 90), (40, 250)).tolist(), int(rng.integers(14, 24))
        for wy in range(top + 8, line - 14, step):
            for wx in range(x + 6, x + w - 10, step):
                cv2.rectangle(image, (wx, wy), (wx + step // 2, wy + step // 2), pane, -1)
        x += w
    return image


def kitchen(height: int, width: int, horizon: float, rng: Rng) -> Floats:
    """Paint a tiled wall behind a wooden table."""
    line, tile = round(height * horizon), int(rng.integers(18, 40))
    colours = hsv(rng, 0, 179, (10, 90), (120, 230)), hsv(rng, 0, 179, (5, 60), (170, 250))
    wall = _blend(*colours, noise(line, width, 60, rng))
    wall[::tile] *= 0.75
    wall[:, ::tile] *= 0.75
    return np.concatenate([wall, planks(height - line, width, rng)])


def planks(height: int, width: int, rng: Rng) -> Floats:
    """Paint wooden planks."""
    grain = cv2.resize(rng.random((max(2, height // 3), 6), np.float32), (width, height))
    wood = _blend(hsv(rng, 6, 18, (80, 190), (60, 130)), hsv(rng, 8, 20, (70, 170), (130, 210)), grain)
    wood[:: int(rng.integers(14, 34))] *= 0.6
    return wood


def room(height: int, width: int, horizon: float, rng: Rng) -> Floats:
    """Paint a wall with striped wallpaper above a checkered floor."""
    line, stripe = round(height * horizon), rng.uniform(8, 26)
    pattern = np.repeat((np.sin(np.arange(width) * 2 * np.pi / stripe) > 0.2)[None], line, 0)
    wall = _blend(hsv(rng, 0, 179, (20, 120), (60, 200)), hsv(rng, 0, 179, (20, 120), (80, 220)), pattern)
    y, x = np.mgrid[: height - line, :width]
    side = rng.uniform(14, 30)
    checks = (x // side + y // (side / 2)) % 2
    floor = _blend(hsv(rng, 0, 179, (5, 80), (50, 140)), hsv(rng, 0, 179, (5, 80), (120, 220)), checks)
    return np.concatenate([wall, floor])


def night(height: int, width: int, horizon: float, rng: Rng) -> Floats:
    """Paint dim meadows under a starry sky."""

    def dark(rng: Rng) -> tuple[Floats, Floats]:
        return hsv(rng, 110, 140, (120, 220), (15, 50)), hsv(rng, 100, 150, (80, 200), (50, 110))

    image = _outdoors(dark, _grass)(height, width, horizon, rng)
    image[round(height * horizon) :] *= 0.45
    for _ in range(40):
        star = int(rng.integers(width)), int(rng.integers(max(1, round(height * horizon))))
        cv2.circle(image, star, 1, (230, 230, 210), -1)
    return image


KINDS: dict[str, SceneKind] = {
    "kitchen": SceneKind(kitchen, ("mug", "bottle", "clock", "lamp", "chair")),
    "room": SceneKind(room, ("chair", "lamp", "clock", "cactus", "flower")),
    "street": SceneKind(street, ("car", "house", "tree", "umbrella", "bird")),
    "park": SceneKind(_outdoors(_sky, _grass), ("tree", "flower", "bird", "kite", "mushroom")),
    "shore": SceneKind(_outdoors(_sky, _sea), ("boat", "fish", "umbrella", "kite", "bird")),
    "desert": SceneKind(_outdoors(_sky, _sand), ("cactus", "car", "house", "bottle", "kite")),
    "night": SceneKind(night, ("house", "lamp", "tree", "mushroom", "clock")),
}
"""Name -> kind of scene."""
