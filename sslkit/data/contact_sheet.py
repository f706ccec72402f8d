"""Draw contact sheets: images with their boxes, then every view exactly as the network will see it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sslkit import images
from sslkit.api import Source
from sslkit.contracts.proposals import CheckedProposals
from sslkit.data.epochs import Item
from sslkit.data.views import Failure, ViewDataset, to_device
from sslkit.errors import DataError
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import View

_THUMB = 144
_PAD = 6
_LABEL = 14
"""Height of a line of text, pixels."""
_WIDTH = 3200
"""Width that the columns of an image may fill before they go on in another line, pixels."""
_COLOURS = (
    (66, 133, 244),
    (234, 67, 53),
    (251, 188, 5),
    (52, 168, 83),
    (171, 71, 188),
    (0, 172, 193),
    (255, 112, 67),
    (158, 157, 36),
)
_LINE = 48
"""Characters of a line of text over a picture."""
_OVERLAP = (255, 255, 255, 70)


def sheet(plan: Plan, source: Source, proposals: CheckedProposals | None, count: int, epoch: int = 0) -> Image.Image:
    """Draw `count` images, one row each: the image with its boxes and objects, then all views of groups and networks.

    Raises:
        DataError: An image cannot be used, and the recipe does not skip it.
    """
    dataset = ViewDataset(plan, source, proposals)
    rows = [_row(plan, dataset, Item(epoch, index)) for index in _spread(len(source), count)]
    width = max(row.width for row in rows)
    canvas = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height
    return canvas


def _spread(total: int, count: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, total - 1, min(count, total))})


def _row(plan: Plan, dataset: ViewDataset, item: Item) -> Image.Image:
    result = dataset[[item]]
    if isinstance(result, Failure):
        raise result.error(result.message)
    batch = to_device(result, plan.views, torch.device("cpu"))
    index = int(batch["index"])
    key = dataset.source.key(index)
    counts = ", ".join(f"{name} {value:g}" for name, value in batch["counts"].items())
    instead = f"  in place of {dataset.source.key(item.image)}" if batch["bad"] else ""
    image = images.decode(dataset.source.read(index), key)
    cells = [
        (f"{key}{instead}  {counts}", _with_views(image, dataset, batch)),
        *_labelled(image, dataset.source, index, key),
    ]
    for (group, network), views in plan.views.items():
        shared = not any((group, other) in plan.views for other in {"online", "target"} - {network}) and plan.has(
            "target"
        )
        who = "" if shared else f" {network}"
        for place in range(len(views)):
            pixels = batch[f"pixels.{group}.{network}"][0, place]
            cells.append((f"{group} {place + 1}{who}", _picture(pixels, views[place])))
    return _arrange([_cell(label, picture) for label, picture in cells])


def _with_views(pixels: images.Image, dataset: ViewDataset, batch: dict[str, Any]) -> Image.Image:
    """Draw an image with the boxes of every group, and shade the overlap of the first group's first two views."""
    image, scale = _reduced(pixels)
    layer = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(layer)
    colours = cycle(_COLOURS)
    for number, group in enumerate(dataset.groups):
        boxes = batch[f"boxes.{group}"][0].numpy() * scale
        if number == 0 and len(boxes) > 1:
            _shade(draw, boxes)
        colour = next(colours)
        for place, box in enumerate(boxes):
            colour = next(colours) if number == 0 and place else colour
            draw.rectangle(tuple(box), outline=colour, width=2 if number == 0 else 1)
            draw.text((box[0] + 3, box[1] + 1), f"{group[0]}{place + 1}", fill=colour)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _reduced(pixels: images.Image) -> tuple[Image.Image, float]:
    """Return a thumbnail of an image, and how many times as large as the image it is."""
    image = Image.fromarray(pixels)
    scale = 2 * _THUMB / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))), scale


def _labelled(pixels: images.Image, source: Source, index: int, key: str) -> list[tuple[str, Image.Image]]:
    """Draw an image with its labelled objects, if the source has any."""
    image, scale = _reduced(pixels)
    try:
        objects = source.objects(index)
    except DataError as error:
        message = re.sub(rf"(^/.*|\S*)/(?={re.escape(key)})", "", str(error))  # the folder says nothing here
        return [(f"no objects: {message}", image)]
    if not len(objects.labels):
        return []
    draw = ImageDraw.Draw(image)
    for box, label in zip(objects.boxes * scale, objects.labels.tolist(), strict=True):
        colour = _COLOURS[label % len(_COLOURS)]
        draw.rectangle(tuple(box), outline=colour, width=2)
        draw.text((box[0] + 3, box[1] + 1), source.categories[label], fill=colour)
    return [("labelled objects", image)]


def _shade(draw: ImageDraw.ImageDraw, boxes: np.ndarray[Any, Any]) -> None:
    left, top = np.maximum(boxes[0, :2], boxes[1, :2])
    right, bottom = np.minimum(boxes[0, 2:], boxes[1, 2:])
    if right > left and bottom > top:
        draw.rectangle((left, top, right, bottom), fill=_OVERLAP)


def _picture(pixels: Tensor, view: View) -> Image.Image:
    """Undo the normalisation of one view (3 s s), clipping values outside [0, 1]."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (view.mean, view.std))
    array = ((pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    side = min(_THUMB, 2 * view.size)
    return Image.fromarray(array).resize(
        (side, side), Image.Resampling.NEAREST if view.size < side else Image.Resampling.BOX
    )


def _cell(label: str, picture: Image.Image) -> Image.Image:
    """Draw a picture with its label over it, in as many lines as it needs."""
    font = ImageFont.load_default(11)
    lines = textwrap.wrap(label, _LINE) or [""]
    widths = [round(font.getlength(line)) for line in lines]
    cell = Image.new("RGB", (max(picture.width, *widths), picture.height + _LABEL * len(lines)), "white")
    draw = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        draw.text((0, number * _LABEL), line, fill="black", font=font)
    cell.paste(picture, (0, _LABEL * len(lines)))
    return cell


def _arrange(cells: Sequence[Image.Image]) -> Image.Image:
    """Lay out cells in columns, several small ones in one, and the columns in as many lines as they need."""
    height = max(cell.height for cell in cells) + _LABEL + 2 * _PAD
    places: list[tuple[int, int]] = []
    left, top, column, line = _PAD, _PAD, 0, 0
    for number, cell in enumerate(cells):
        if number == 1 or (number and top + cell.height > height):
            left, top, column = left + column + _PAD, _PAD, 0
            if left + cell.width > _WIDTH:
                left, line = _PAD, line + 1
        places.append((left, line * height + top))
        column, top = max(column, cell.width), top + cell.height + 2
    width = max(place[0] + cell.width for place, cell in zip(places, cells, strict=True)) + _PAD
    canvas = Image.new("RGB", (width, (line + 1) * height), "white")
    for place, cell in zip(places, cells, strict=True):
        canvas.paste(cell, place)
    return canvas
