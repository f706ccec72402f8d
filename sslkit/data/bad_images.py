"""Images that cannot be used: which there were, what is written of them, and when there are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sslkit import images
from sslkit.api import Source
from sslkit.errors import DataError
from sslkit.storage.run_folder import BAD_IMAGES

_SHOWN = 5

BadImage = tuple[int, str]
"""An image, by its place in the source, and what is wrong with it."""


def usable(source: Source, index: int, min_side: int) -> images.Image:
    """Read and decode an image.

    Returns:
        Shape (h, w, 3), uint8.

    Raises:
        DataError: It cannot be read or decoded, or a side is shorter than `min_side` pixels.
    """
    key = source.key(index)
    image = images.decode(source.read(index), key)
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        raise DataError(f"{key} is {width} x {height} pixels, and min_image_side = {min_side}")
    return image


@dataclass
class BadImages:
    """What a run has skipped so far, each image once.

    Attributes:
        images: In the source.
        most: As many may be skipped.
        share: And as large a share of the images.
        reasons: Image -> what is wrong with it.
    """

    images: int
    most: int
    share: float
    reasons: dict[int, str] = field(default_factory=dict)

    def new(self, found: Iterable[BadImage]) -> list[BadImage]:
        """Return those that are not known yet, each once."""
        return [(image, reason) for image, reason in dict(found).items() if image not in self.reasons]

    def add(self, found: Sequence[BadImage]) -> list[str]:
        """Remember images, and return what to say of those that are new: the first few by name, the rest as a count."""
        new = self.new(found)
        before = len(self.reasons)
        self.reasons |= dict(new)
        said = [f"warning: skipped, and replaced by another one: {reason}" for _, reason in new[: _SHOWN - before]]
        if before < _SHOWN <= len(self.reasons):
            said.append(f"    further ones are in {BAD_IMAGES}")
        return said

    def too_many(self) -> str | None:
        """Say that there are more than a run may skip, and what to do about it."""
        count = len(self.reasons)
        if count <= self.most and count <= self.share * self.images:
            return None
        limits = f"max_bad_images = {self.most}, max_bad_share = {self.share:g}"
        return (
            f"{count} of {self.images} images cannot be used, which is more than a run may skip ({limits}). They are "
            f"listed in {BAD_IMAGES}; repair or remove them, or raise the limits: the run goes on where it is"
        )

    def rows(self, key: Callable[[int], str]) -> list[dict[str, Any]]:
        """Return what is written to the run's folder; `key` names an image."""
        return [{"image": image, "key": key(image), "reason": self.reasons[image]} for image in sorted(self.reasons)]

    def state_dict(self) -> dict[int, str]:
        """Return what a checkpoint keeps."""
        return dict(self.reasons)

    def load_state_dict(self, state: Mapping[int, str]) -> None:
        """Go on from a checkpoint."""
        self.reasons = dict(state)
