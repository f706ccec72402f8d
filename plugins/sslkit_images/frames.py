"""Decide whether boxes are of an image as it is stored or of the upright one, and return them for the upright one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sslkit.boxes import Boxes, clip, sides
from sslkit.errors import DataError
from sslkit.images import Header, read_header
from sslkit.orientation import turned

Frame = Literal["auto", "stored", "upright"]
"""Which pixels boxes count: those of the stored image, or of the one that EXIF turns upright. "auto" decides by the
width and height in the annotations."""
_PIXEL = 0.999
"""The least side of a box, pixels: one, less what float32 may have rounded off."""


def header_of(path: Path) -> Header | None:
    """Read the header of an image file; None if it cannot be read, so that its pixels cannot be read either."""
    try:
        with path.open("rb") as file:
            return read_header(file, path.name)
    except (OSError, DataError):
        return None


class Placed(NamedTuple):
    """Boxes of one image.

    Attributes:
        boxes: Shape (n, 4), xyxy pixels of the upright image, clipped to it.
        shown: Shape (n,): whether each shows a part of the image.
        turned: Whether the image is turned upright by EXIF, and the boxes with it.
        wrong_size: Whether the annotations give a size that the image has neither stored nor upright.
    """

    boxes: Boxes
    shown: npt.NDArray[np.bool_]
    turned: bool = False
    wrong_size: bool = False


def place(boxes: Boxes, path: Path, declared: tuple[int, int], frame: Frame) -> Placed:
    """Turn boxes upright with the image in a file, and clip them to it; see `upright_boxes`.

    A size that does not fit is an error only where there are boxes.
    """
    if not len(boxes) and not all(declared):
        return Placed(boxes, np.zeros(0, np.bool_))
    header = header_of(path)
    if not len(boxes):
        return Placed(boxes, np.zeros(0, np.bool_), wrong_size=header is not None and not _fits(header, declared))
    if header is not None:
        frame = _decide(header, declared, frame, str(path))
    turned = header is not None and header.orientation != 1 and frame == "stored"
    return Placed(*upright_boxes(boxes, header, declared, frame, str(path)), turned)


def upright_boxes(
    boxes: Boxes, header: Header | None, declared: tuple[int, int], frame: Frame, name: str
) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Turn boxes upright with their image, and clip them to it.

    Args:
        boxes: Shape (n, 4), xyxy pixels, as the annotations have them.
        header: The image's header; None: the boxes are only clipped to the declared size.
        declared: Height and width in the annotations; 0 where they say nothing.
        frame: Which pixels the boxes count.
        name: The image, for messages.

    Returns:
        The boxes (n, 4) in xyxy pixels of the upright image, and whether each shows at least a pixel of it (n).

    Raises:
        DataError: The declared size is neither that of the stored nor of the upright image, or does not tell which of
            the two the boxes belong to.
    """
    if header is None:
        height, width = (side or np.inf for side in declared)
    else:
        if _decide(header, declared, frame, name) == "stored":
            boxes = turned(boxes, header.height, header.width, header.orientation)
        height, width = header.upright
    boxes = clip(boxes, height, width)
    return boxes, np.asarray((sides(boxes) >= _PIXEL).all(axis=1), np.bool_)


def _fits(header: Header, declared: tuple[int, int]) -> bool:
    """Return whether a size is that of an image, stored or upright; one that says nothing fits all."""
    return not all(declared) or declared in {(header.height, header.width), header.upright}


def _decide(header: Header, declared: tuple[int, int], frame: Frame, name: str) -> Frame:
    stored, upright, known = (header.height, header.width), header.upright, all(declared)
    if not _fits(header, declared):
        raise DataError(
            f"{name} has {stored[1]} x {stored[0]} pixels, but its boxes are of an image of {declared[1]} x "
            f"{declared[0]}: scale them with the image, or write its own width and height if only these are wrong"
        )
    if frame != "auto":
        return frame
    if header.orientation == 1:
        return "upright"
    if not known or stored == upright:
        why = "say no size" if not known else "say a size that both have"
        raise DataError(
            f"{name} is turned by its EXIF orientation ({header.orientation}), and its annotations {why}: write frame "
            '= "stored" if boxes are of the pixels as they are stored, or frame = "upright"'
        )
    return "stored" if declared == stored else "upright"
