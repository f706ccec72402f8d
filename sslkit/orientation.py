"""EXIF orientation: how a stored image is turned upright, with its boxes."""

from __future__ import annotations

import io
import re
import struct
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image as Pillow
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from sslkit.boxes import Boxes

UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT, 3: Pillow.Transpose.ROTATE_180, 4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE, 6: Pillow.Transpose.ROTATE_270, 7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}  # fmt: skip
"""Orientation -> the operation that turns the stored image upright; for 1 and invalid values there is none."""
EXCHANGING = frozenset({5, 6, 7, 8})
"""Orientations that exchange height and width."""
_TAG = 0x0112
_MARKS = re.compile(rb"Exif\0\0|tiff:Orientation")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CARRIERS = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}
"""Chunks of a PNG that may hold EXIF or XMP."""


def orientation_of(image: Pillow.Image) -> int:
    """Return the orientation of an opened image, from EXIF or XMP: 1 if it has none or an invalid one."""
    value = image.getexif().get(_TAG, 1)
    return value if value in UPRIGHT else 1


def stored_size(image: Pillow.Image) -> tuple[int, int]:
    """Return (width, height) of an opened image as it is stored; Pillow reports the upright size of a TIFF."""
    if isinstance(image, TiffImageFile):
        return int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
    return image.size


def jpeg_orientation(data: bytes) -> int:
    """Return the orientation of a JPEG from its bytes; quick where nothing in them could hold one."""
    if not _MARKS.search(data):
        return 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Pillow.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return orientation_of(image)


def png_has_none(file: BinaryIO) -> bool:
    """Return whether a file is a PNG without chunks that could hold an orientation, from the headers of its chunks.

    Pillow would decode all pixels to look for chunks after them. The file's position is kept.
    """
    start = file.tell()
    try:
        if file.read(8) != _PNG:
            return False
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind in _PNG_CARRIERS:
                return False
            if kind == b"IEND":
                return True
            file.seek(size + 4, io.SEEK_CUR)
        return True
    finally:
        file.seek(start)


def turned(boxes: Boxes, height: float, width: float, orientation: int) -> Boxes:
    """Turn boxes with their image.

    Args:
        boxes: Shape (n, 4), xyxy pixels of the image as it is stored.
        height: Height of the stored image.
        width: Width of the stored image.
        orientation: Its EXIF orientation.

    Returns:
        Shape (n, 4), xyxy pixels of the upright image.
    """
    left, top, right, bottom = boxes.T
    mirrored = {
        1: (left, top, right, bottom),
        2: (width - right, top, width - left, bottom),
        3: (width - right, height - bottom, width - left, height - top),
        4: (left, height - bottom, right, height - top),
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }
    return np.stack(mirrored[orientation], axis=1).astype(np.float32)
