"""Views from the corners of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from sslkit.api import Sample, ViewSampler
from sslkit.boxes import Boxes


class Corners(ViewSampler):
    """Boxes in different corners of the image, drawn without repetition; group `scene`.

    Args:
        views: Number of corners.
        share: Side of a box as a share of the image's side; above 0.5 neighbours overlap.
    """

    name = "corners"

    def __init__(
        self, *, views: Annotated[int, Field(ge=1, le=4)] = 2, share: Annotated[float, Field(gt=0, le=1)] = 0.7
    ) -> None:
        self.views = views
        self.share = share

    @property
    def groups(self) -> Mapping[str, int]:
        """One group, `scene`."""
        return {"scene": self.views}

    def sample(self, height: int, width: int, proposals: Boxes, rng: np.random.Generator) -> Sample:
        """Choose the corners."""
        image = np.array([width, height], np.float32)
        side = np.maximum(np.rint(self.share * image), 1)
        which = rng.permutation(4)[: self.views]
        low = np.stack([which % 2, which // 2], axis=1) * (image - side)
        return Sample({"scene": np.concatenate([low, low + side], axis=1).astype(np.float32)})
