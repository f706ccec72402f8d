"""A contact sheet of images with their proposals."""

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
    """Draw `count` images, spread evenly over the source, with their boxes from large (blue) to small (red)."""
    indices = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist()
    cells = [_cell(source, proposals, index) for index in indices]
    columns = min(4, max(1, len(cells)))
    rows = max(1, -(-len(cells) // columns))
    step_x, step_y = CELL_WIDTH + GAP, CELL_HEIGHT + CAPTION + GAP
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), BACKGROUND)
    for position, cell in enumerate(cells):
        sheet.paste(cell, (GAP + position % columns * step_x, GAP + position // columns * step_y))
    return sheet


def _cell(source: Source, proposals: Proposals, index: int) -> Image.Image:
    """Draw one image with its caption; the cell of an unreadable image is empty and says so."""
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


def _overlay(image: Image.Image, boxes: Boxes) -> Image.Image:
    scale = min(CELL_WIDTH / image.width, CELL_HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    order = np.argsort(-areas(boxes))
    for colour, box in zip(_colours(len(boxes)), boxes[order] * scale, strict=True):
        draw.rectangle([float(box[0]), float(box[1]), float(box[2]) - 1, float(box[3]) - 1], outline=colour, width=2)
    return image


def _colours(count: int) -> Sequence[tuple[int, int, int]]:
    """Return colours from blue to red."""
    hues = np.linspace(0.62, 0.0, count)
    return [(int(255 * r), int(255 * g), int(255 * b)) for r, g, b in (colorsys.hsv_to_rgb(h, 0.85, 1) for h in hues)]
