"""Encoded bytes to upright RGB pixels, and boxes to resized crops."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from sslkit.boxes import Boxes
from sslkit.errors import DataError

Image = npt.NDArray[np.uint8]
"""Shape (h, w, 3), RGB."""
LIMIT = 500_000_000
"""Pixels of the largest image that is decoded; what claims more is taken for a decompression bomb."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: the page that such pictures are drawn for."""
_RESAMPLING = {
    "bicubic": Pillow.Resampling.BICUBIC,
    "bilinear": Pillow.Resampling.BILINEAR,
    "lanczos": Pillow.Resampling.LANCZOS,
}


def decode(data: bytes, name: str) -> Image:
    """Decode the first frame: upright by its EXIF orientation, 8 bits a channel, on white where transparent.

    Args:
        data: The file's bytes, in any format that Pillow reads by itself.
        name: For messages.

    Raises:
        DataError: It is empty, no image, truncated, damaged or implausibly large.
    """
    with _opened(data, name) as image:
        image.load()
        pixels = np.asarray(_rgb(ImageOps.exif_transpose(image)), np.uint8)
    return np.ascontiguousarray(pixels)


def upright_size(data: bytes, name: str) -> tuple[int, int]:
    """Read (height, width) of the upright image from its header.

    Raises:
        DataError: It is empty, no image, or implausibly large.
    """
    with _opened(data, name) as image:
        turned = image.getexif().get(0x0112, 1) in {5, 6, 7, 8}
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Pillow.Image]:
    if not data:
        raise DataError(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit and messages take the place of Pillow's
            with Pillow.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > LIMIT:
                    raise DataError(
                        f"{name} claims {image.width} x {image.height} pixels; more than {LIMIT} are not decoded"
                    )
                yield image
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is no image that Pillow knows ({len(data)} bytes, beginning with {data[:8]!r})"
        ) from None
    except DataError:
        raise
    except Exception as error:  # decoders raise of every kind on damaged bytes
        raise DataError(f"{name} cannot be decoded ({len(data)} bytes): {str(error) or type(error).__name__}") from None


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads by itself: for PostScript it would start another program."""
    Pillow.init()
    return tuple(name for name in Pillow.ID if name != "EPS")


def _rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Pillow.new("RGBA", image.size, (*BACKGROUND, 255))
        return Pillow.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Pillow.Image) -> Pillow.Image:
    """Scale 16-bit grey so that 65535 becomes 255; floats are taken as [0, 1], or as bytes when they exceed it."""
    deep: npt.NDArray[Any] = np.asarray(image, np.float64)
    scale = 1 / 257 if image.mode != "F" else (255 if deep.max(initial=0) <= 1 else 1)
    shallow = np.clip(np.rint(deep * scale), 0, 255).astype(np.uint8)
    return Pillow.fromarray(shallow).convert("RGB")


def cuts(image: Image, boxes: Boxes, size: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """Cut boxes out of an image and resize each to a square, with antialiasing; aspect ratios are not kept.

    Args:
        image: Shape (h, w, 3).
        boxes: Shape (n, 4), xyxy pixels; clipped to the image, and widened to a pixel where they are smaller.
        size: Side of the squares, pixels.
        interpolation: "bicubic", "bilinear" or "lanczos".

    Returns:
        Shape (n, size, size, 3).
    """
    made = [_cut(image, box, size, _RESAMPLING[interpolation]) for box in _fitted(boxes, image)]
    return np.stack(made) if made else np.zeros((0, size, size, 3), np.uint8)


def _cut(image: Image, box: tuple[float, float, float, float], size: int, filter_: Pillow.Resampling) -> Image:
    """Cut first and resize then: given the whole picture, Pillow's filter would look beyond the box."""
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    part = Pillow.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return np.asarray(part.resize((size, size), filter_, box=inner), np.uint8)


def _fitted(boxes: Boxes, image: Image) -> list[tuple[float, float, float, float]]:
    """Move boxes inside the image and make them at least a pixel wide and high."""
    limit = np.array([image.shape[1], image.shape[0]], np.float64)
    low = np.clip(boxes[:, :2].astype(np.float64), 0, limit - 1)
    high = np.clip(np.maximum(boxes[:, 2:], low + 1), 1, limit)
    fitted: list[tuple[float, float, float, float]] = [tuple(box) for box in np.concatenate([low, high], 1).tolist()]
    return fitted
