"""A picture of proposals: photos with their boxes on one sheet."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sslkit.api import Proposals, Source
from sslkit.boxes import Boxes, areas
from sslkit.errors import DataError

CELL_WIDTH, CELL_HEIGHT, CAPTION, GAP = 420, 320, 18, 8
BACKGROUND, INK = (24, 24, 24), (230, 230, 230)


def contact_sheet(source: Source, proposals: Proposals, count: int) -> Image.Image:
    """Draw `count` photos, spread evenly over the source, with their boxes: small ones red, large ones blue."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist()
    cells = [_cell(source, proposals, index) for index in chosen]
    columns = min(4, max(1, len(cells)))
    rows = max(1, -(-len(cells) // columns))
    step_x, step_y = CELL_WIDTH + GAP, CELL_HEIGHT + CAPTION + GAP
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), BACKGROUND)
    for place, cell in enumerate(cells):
        sheet.paste(cell, (GAP + place % columns * step_x, GAP + place // columns * step_y))
    return sheet


def _cell(source: Source, proposals: Proposals, index: int) -> Image.Image:
    """Draw one photo with its caption; an unreadable one is an empty cell that says so."""
    from sslkit.images import decode

    cell = Image.new("RGB", (CELL_WIDTH, CELL_HEIGHT + CAPTION), BACKGROUND)
    key, boxes = source.key(index), proposals[index]
    caption = f"{key[-40:]}  {len(boxes)} boxes"
    try:
        cell.paste(_overlay(Image.fromarray(decode(source.read(index), key)), boxes), (0, CAPTION))
    except (DataError, OSError):
        caption = f"{key[-40:]}  unreadable"
    ImageDraw.Draw(cell).text((2, 3), caption, INK)
    return cell


def _overlay(photo: Image.Image, boxes: Boxes) -> Image.Image:
    scale = min(CELL_WIDTH / photo.width, CELL_HEIGHT / photo.height)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    photo = photo.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(photo)
    order = np.argsort(-areas(boxes))
    for color, box in zip(_colors(len(boxes)), boxes[order] * scale, strict=True):
        draw.rectangle([float(box[0]), float(box[1]), float(box[2]) - 1, float(box[3]) - 1], outline=color, width=2)
    return photo


def _colors(count: int) -> Sequence[tuple[int, int, int]]:
    """Return hues from blue to red."""
    hues = np.linspace(0.62, 0.0, count)
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b in (colorsys.hsv_to_rgb(h, 0.85, 1) for h in hues)]
