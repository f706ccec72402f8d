"""Collect the images that cannot be used, and end a run that has too many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sslkit import images
from sslkit.api import Source
from sslkit.errors import DataError
from sslkit.storage.run_folder import BAD_IMAGES

_MOST_NAMED = 5
"""Images whose warning names them; the others are counted."""

BadImage = tuple[int, str]
"""The index of an image in the source, and what is wrong with it."""


def read_usable(source: Source, index: int, min_side: int) -> images.Image:
    """Read and decode an image.

    Returns:
        Shape (h, w, 3), uint8.

    Raises:
        DataError: It cannot be read or decoded, or a side is shorter than `min_side` pixels.
    """
    return decode_usable(source.read(index), source.key(index), min_side)


def decode_usable(data: bytes, key: str, min_side: int) -> images.Image:
    """Decode an image that has been read; see `read_usable`."""
    image = images.decode(data, key)
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        raise DataError(f"{key} is {width} x {height} pixels, and min_image_side = {min_side}")
    return image


@dataclass
class BadImages:
    """The images that a run has skipped so far, each once.

    Attributes:
        images: Number of images in the source.
        max_count: Number of images that may be skipped.
        max_share: Share of the images that may be skipped.
        reasons: Image -> what is wrong with it.
    """

    images: int
    max_count: int
    max_share: float
    reasons: dict[int, str] = field(default_factory=dict)

    def new(self, bad: Iterable[BadImage]) -> list[BadImage]:
        """Return the images that are not known yet, each once."""
        return [(image, reason) for image, reason in dict(bad).items() if image not in self.reasons]

    def add(self, bad: Sequence[BadImage]) -> list[str]:
        """Add images; return warnings that name the first few new ones, and refer to the file for the rest."""
        new = self.new(bad)
        before = len(self.reasons)
        self.reasons |= dict(new)
        warnings = [f"warning: skipped, and replaced by another: {reason}" for _, reason in new[: _MOST_NAMED - before]]
        if before < _MOST_NAMED <= len(self.reasons):
            warnings.append(f"    {BAD_IMAGES} lists any others")
        return warnings

    def too_many(self) -> str | None:
        """Return an error message when there are more than a run may skip; otherwise None."""
        count = len(self.reasons)
        if count <= self.max_count and count <= self.max_share * self.images:
            return None
        limits = f"max_bad_images = {self.max_count}, max_bad_share = {self.max_share:g}"
        return (
            f"{count} of {self.images} images cannot be used, which is more than a run may skip ({limits}). They are "
            f"listed in {BAD_IMAGES}; repair or remove them, or raise the limits: the run then resumes where it stopped"
        )

    def rows(self, key: Callable[[int], str]) -> list[dict[str, Any]]:
        """Return the entries of the file in the run's folder; `key` names an image."""
        return [{"image": image, "key": key(image), "reason": self.reasons[image]} for image in sorted(self.reasons)]

    def state_dict(self) -> dict[int, str]:
        """Return the state for a checkpoint."""
        return dict(self.reasons)

    def load_state_dict(self, state: Mapping[int, str]) -> None:
        """Restore the state from a checkpoint."""
        self.reasons = dict(state)
