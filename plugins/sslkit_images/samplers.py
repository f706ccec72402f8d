"""Samplers that draw random resized crops from the whole image, without proposals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from sslkit.api import Sample, ViewSampler
from sslkit.boxes import Boxes
from sslkit.crops import random_crops

Range = tuple[float, float]
Count = Annotated[int, Field(ge=1, le=1000)]


class TwoViews(ViewSampler):
    """Random resized crops of the whole image, as in BYOL and SimCLR. One group: `scene`.

    Args:
        views: Number of views.
        scale: Range of the crop area as a fraction of the image area, drawn uniformly.
        ratio: Range of the aspect ratio (width / height), drawn log-uniformly.
    """

    name = "two-views"

    def __init__(self, *, views: Count = 2, scale: Range = (0.08, 1.0), ratio: Range = (3 / 4, 4 / 3)) -> None:
        self.views = views
        self.scale = _check_range("scale", scale, 1.0)
        self.ratio = _check_range("ratio", ratio)

    @property
    def groups(self) -> Mapping[str, int]:
        """The group `scene`."""
        return {"scene": self.views}

    def sample(self, height: int, width: int, proposals: Boxes, rng: np.random.Generator) -> Sample:  # noqa: ARG002
        """Draw the crops."""
        return Sample({"scene": _draw_crops(height, width, self.views, self.scale, self.ratio, rng)})


class MultiCrop(ViewSampler):
    """Large and small random resized crops, as in SwAV and DINO. Two groups: `global` and `local`.

    Args:
        global_crops: Number of global (large) crops.
        local_crops: Number of local (small) crops.
        global_scale: Range of the area of global crops, as a fraction of the image area (DINO's values; arXiv
            2104.14294, section 3.2).
        local_scale: Range of the area of local crops, as a fraction of the image area.
        ratio: Range of the aspect ratio (width / height), drawn log-uniformly.
    """

    name = "multi-crop"

    def __init__(
        self, *, global_crops: Count = 2, local_crops: Count = 6,
        global_scale: Range = (0.4, 1.0), local_scale: Range = (0.05, 0.4), ratio: Range = (3 / 4, 4 / 3),
    ) -> None:  # fmt: skip
        self.global_crops = global_crops
        self.local_crops = local_crops
        self.global_scale = _check_range("global_scale", global_scale, 1.0)
        self.local_scale = _check_range("local_scale", local_scale, 1.0)
        self.ratio = _check_range("ratio", ratio)

    @property
    def groups(self) -> Mapping[str, int]:
        """The groups `global` and `local`."""
        return {"global": self.global_crops, "local": self.local_crops}

    def sample(self, height: int, width: int, proposals: Boxes, rng: np.random.Generator) -> Sample:  # noqa: ARG002
        """Draw the crops."""
        return Sample({
            "global": _draw_crops(height, width, self.global_crops, self.global_scale, self.ratio, rng),
            "local": _draw_crops(height, width, self.local_crops, self.local_scale, self.ratio, rng),
        })  # fmt: skip


def _check_range(name: str, value: Range, maximum: float = np.inf) -> Range:
    if not 0 < value[0] <= value[1] <= maximum:
        limit = f" <= {maximum:g}" if maximum < np.inf else ""
        raise ValueError(f"{name} = {list(value)} must be [low, high] with 0 < low <= high{limit}")
    return value


def _draw_crops(height: int, width: int, count: int, scale: Range, ratio: Range, rng: np.random.Generator) -> Boxes:
    return random_crops(height, width, (count,), scale, ratio, rng).astype(np.float32)
