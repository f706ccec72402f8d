"""Decode images to upright RGB pixels, and crop and resize them."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image as Pillow
from PIL import ImageOps, PngImagePlugin, UnidentifiedImageError

from sslkit.boxes import Boxes
from sslkit.errors import DataError
from sslkit.orientation import EXCHANGING, UPRIGHT, jpeg_orientation, orientation_of, png_has_none, stored_size

Image = npt.NDArray[np.uint8]
"""Shape (h, w, 3), RGB."""
LIMIT = 500_000_000
"""Pixels of the largest image that is decoded; a larger one may be a decompression bomb."""
TEXT_LIMIT = 1 << 26
"""Bytes of the longest text inside a PNG, unpacked; editors and generators of images leave megabytes there."""
_RANGES = ((1.0, 4.0), *((2.0**bits - 1, 1.5 * 2**bits) for bits in (8, 10, 12, 14, 16)))
"""What can be white in a float image, and how high its values then go: filters and renderers overshoot."""
_FAR = 1.5
"""How many times the second highest value of a float image the highest is where it marks missing pixels."""
_FEW = 0.01
"""Share of a float image's values that may lie above its range: bad pixels."""
_SAMPLE = 1 << 20
"""About how many values of a float image its range is chosen by."""
BACKGROUND = (255, 255, 255)
"""The colour behind transparent pixels: most such images are drawn for a white page."""
_RESAMPLING = {"bicubic": Pillow.Resampling.BICUBIC, "bilinear": Pillow.Resampling.BILINEAR}
_RESIZE = {"bicubic": torch.ops.aten._upsample_bicubic2d_aa.out, "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out}
"""What `torch.nn.functional.interpolate(antialias=True)` calls; only these forms write interleaved pixels."""


if Pillow.MAX_IMAGE_PIXELS is not None:  # Pillow's own limits lie below ours
    Pillow.MAX_IMAGE_PIXELS = max(Pillow.MAX_IMAGE_PIXELS, LIMIT)
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, TEXT_LIMIT)
PngImagePlugin.MAX_TEXT_MEMORY = max(PngImagePlugin.MAX_TEXT_MEMORY, 4 * TEXT_LIMIT)


def decode(data: bytes, name: str) -> Image:
    """Decode the first frame: upright by its EXIF orientation, 8 bits per channel, on white where transparent.

    Plain JPEGs are decoded by a faster library, to the same pixels.

    Args:
        data: The bytes of the file, in any format that Pillow reads by itself.
        name: The image's name, for messages.

    Raises:
        DataError: The data is empty, not an image, truncated, damaged or implausibly large.
    """
    plain = _plain_jpeg(data)
    if plain is not None:
        return plain
    with _opened(io.BytesIO(data), name) as image:
        image.load()
        return np.array(_rgb(ImageOps.exif_transpose(image)), np.uint8)


def _plain_jpeg(data: bytes) -> Image | None:
    """Decode a valid colour or grey JPEG by the exact inverse transform; return None for anything else."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray") or width * height > LIMIT:
            return None
        pixels: Image = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # anything irregular: leave it to Pillow
        return None
    turn = UPRIGHT.get(jpeg_orientation(data))
    return pixels if turn is None else np.array(Pillow.fromarray(pixels).transpose(turn))


@dataclass(frozen=True)
class Header:
    """Size and orientation of an image, as its file says before any pixel is decoded.

    Attributes:
        height: Height of the image as it is stored.
        width: Width of the image as it is stored.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
    """

    height: int
    width: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return (self.width, self.height) if self.orientation in EXCHANGING else (self.height, self.width)


def read_header(file: BinaryIO, name: str) -> Header:
    """Read the header of an image from an open file.

    Raises:
        DataError: The file is empty, not an image, or implausibly large.
    """
    plain = png_has_none(file)
    with _opened(file, name) as image:
        width, height = stored_size(image)
        return Header(height, width, 1 if plain else orientation_of(image))


def upright_size(data: bytes, name: str) -> tuple[int, int]:
    """Read (height, width) of the upright image from its header.

    Raises:
        DataError: The data is empty, not an image, or implausibly large.
    """
    return read_header(io.BytesIO(data), name).upright


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Pillow.Image]:
    head = file.read(8)
    file.seek(0)
    if not head:
        raise DataError(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our limit and messages replace Pillow's
            with Pillow.open(file, formats=_formats()) as image:
                if image.width * image.height > LIMIT:
                    raise DataError(
                        f"{name} claims {image.width} x {image.height} pixels; more than {LIMIT} are not decoded"
                    )
                yield image
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is not an image that Pillow can read ({_size(file)} bytes, beginning with {head!r})"
        ) from None
    except Pillow.DecompressionBombError:
        raise DataError(f"{name} claims more than {2 * LIMIT} pixels; more than {LIMIT} are not decoded") from None
    except DataError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        raise DataError(
            f"{name} cannot be decoded ({_size(file)} bytes): {str(error) or type(error).__name__}"
        ) from None


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads by itself; for PostScript it would start another program."""
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
    """Scale 16-bit grey so that 65535 becomes 255, and floats by their range; values outside it are clipped.

    Values that are not numbers are black.
    """
    deep: npt.NDArray[Any] = np.asarray(image, np.float64)
    top = 65535.0 if image.mode != "F" else _float_range(deep)
    shallow = np.clip(np.rint(np.nan_to_num(deep, posinf=np.inf, neginf=-np.inf) * (255 / top)), 0, 255)
    return Pillow.fromarray(shallow.astype(np.uint8)).convert("RGB")


def _float_range(deep: npt.NDArray[Any]) -> float:
    """Return what is white in a float image: 1, or the highest number of 8 to 16 bits, as most of its values have it.

    Values that mark missing pixels have no say: those that no range holds, one far above all others, and a few others.
    """
    sample = deep.ravel()[:: deep.size // _SAMPLE | 1]
    usual = sample[(sample >= 0) & (sample <= _RANGES[-1][1])]
    highest = usual.max(initial=0)
    second = usual[usual < highest].max(initial=0)
    if second > 0 and highest > _FAR * max(1, second):
        usual = usual[usual < highest]
    bulk = np.quantile(usual, 1 - _FEW, method="lower") if usual.size else 0
    return next(white for white, most in _RANGES if bulk <= most)


def cuts(
    image: Image, boxes: Boxes, size: int, interpolation: str, out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Crop boxes out of an image and resize each to a square, with antialiasing; aspect ratios are not preserved.

    Each box is cropped first and then resized, so that the filter does not look beyond the box. Boxes of whole pixels
    are resized by torch, on bytes, others by Pillow. The two differ by one level in 2 % of all values, and hardly
    anywhere by more.

    Args:
        image: Shape (h, w, 3).
        boxes: Shape (n, 4), xyxy pixels; clipped to the image, and widened to a pixel if they are smaller.
        size: Side of the squares, pixels.
        interpolation: "bicubic" or "bilinear".
        out: Shape (n, size, size, 3), contiguous: filled and returned instead of a new array.

    Returns:
        Shape (n, size, size, 3).
    """
    crops = np.empty((len(boxes), size, size, 3), np.uint8) if out is None else out
    pixels = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
    squares = torch.from_numpy(crops).permute(0, 3, 1, 2)
    for place, (left, top, right, bottom) in enumerate(_fitted(boxes, image)):
        if left % 1 or top % 1 or right % 1 or bottom % 1:
            crops[place] = _crop(image, (left, top, right, bottom), size, _RESAMPLING[interpolation])
            continue
        part = pixels[:, :, int(top) : int(bottom), int(left) : int(right)]
        _RESIZE[interpolation](part, [size, size], False, None, None, out=squares[place : place + 1])
    return crops


def _crop(image: Image, box: tuple[float, float, float, float], size: int, filter_: Pillow.Resampling) -> Image:
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    part = Pillow.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return np.asarray(part.resize((size, size), filter_, box=inner), np.uint8)


def _fitted(boxes: Boxes, image: Image) -> list[tuple[float, float, float, float]]:
    """Clip boxes to the image and make them at least a pixel wide and high."""
    limit = np.array([image.shape[1], image.shape[0]], np.float64)
    low = np.clip(boxes[:, :2].astype(np.float64), 0, limit - 1)
    high = np.clip(np.maximum(boxes[:, 2:], low + 1), 1, limit)
    fitted: list[tuple[float, float, float, float]] = [tuple(box) for box in np.concatenate([low, high], 1).tolist()]
    return fitted
