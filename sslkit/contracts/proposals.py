"""Check proposers, and the proposals of every image."""

from __future__ import annotations

from typing import Any

import numpy as np

from sslkit import boxes as box_functions
from sslkit.api import Progress, Proposals, Proposer, Source
from sslkit.boxes import Boxes
from sslkit.contracts.arrays import FORM, array_fault, named
from sslkit.contracts.blame import blamed, breach
from sslkit.plugins import Component

TOLERANCE = 1.0
"""Pixels by which a proposal may reach outside its image, as after rounding; it is then clipped."""


class CheckedProposals(Proposals):
    """Proposals whose boxes are checked when they are read.

    Args:
        component: The proposer that opened them.
        proposals: The proposals.
    """

    def __init__(self, component: Component, proposals: Proposals) -> None:
        self.component, self.proposals = component, proposals

    def __len__(self) -> int:
        """Return the number of images."""
        with blamed(self.component, "__len__", type(self.proposals)):
            return len(self.proposals)

    def __getitem__(self, index: int) -> Boxes:
        """Return the boxes of an image.

        Raises:
            PluginError: They are not an array of floats of shape (n, 4).
        """
        with blamed(self.component, "__getitem__", type(self.proposals)):
            boxes: Any = self.proposals[index]
        if fault := array_fault(boxes):
            raise self._breach(index, fault)
        return boxes  # type: ignore[no-any-return]

    def within(self, index: int, height: int, width: int) -> Boxes:
        """Return the boxes of an image of `height` x `width` pixels, clipped, without those of less than a pixel.

        Raises:
            PluginError: A box is not finite, inverted, or reaches outside the image by more than rounding explains.
        """
        boxes = self[index]
        clipped = box_functions.clip(boxes, height, width)
        sides = clipped[:, 2:] - clipped[:, :2]
        if len(boxes) and not (np.abs(boxes - clipped).max() <= TOLERANCE and sides.min() >= 0):  # false for NaN
            raise self._breach(index, self._fault(boxes, height, width))
        return clipped[(sides >= 1).all(axis=1)]

    def _fault(self, boxes: Boxes, height: int, width: int) -> str:
        """Describe the first wrong box; to be called if there is one."""
        shifts = np.abs(boxes - box_functions.clip(boxes, height, width))
        finite = np.asarray(np.isfinite(boxes).all(axis=1))
        outside = np.asarray((shifts > TOLERANCE).any(axis=1))
        inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
        place = int(np.flatnonzero(~finite | outside | inverted)[0])
        values = f"box {place}: {boxes[place].tolist()}"
        if not finite[place]:
            return f"{values}, which is not finite"
        if outside[place]:
            size = f"{width} x {height} pixels"
            return f"{values}, which reaches outside the image of {size}: were these proposals made for it?"
        return f"{values}, which is inverted: {FORM}"

    def _breach(self, index: int, fault: str) -> Exception:
        return breach(self.component, "__getitem__", f"returned for image {index} {fault}", type(self.proposals))


def build_proposals(component: Component, proposer: Proposer, source: Source, progress: Progress, jobs: int) -> None:
    """Let a proposer build its proposals.

    Raises:
        PluginError: It failed.
    """
    with blamed(component, "build"):
        proposer.build(source, progress, jobs)


def open_proposals(component: Component, proposer: Proposer, source: Source) -> CheckedProposals:
    """Open the proposals of a source.

    Raises:
        PluginError: The proposer failed, or returned something else than proposals of each image.
    """
    with blamed(component, "open"):
        proposals: Any = proposer.open(source)
    if not isinstance(proposals, Proposals):
        raise breach(component, "open", f"returned {named(proposals)}: return a subclass of sslkit.api.Proposals")
    checked = CheckedProposals(component, proposals)
    if len(checked) != len(source):
        what = f"returned proposals of {len(checked)} images, and the source has {len(source)}"
        raise breach(component, "open", what)
    return checked
