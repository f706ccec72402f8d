"""A proposer and proposals whose every answer is checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from sslkit import boxes as box_functions
from sslkit.api import Progress, Proposals, Proposer, Source
from sslkit.boxes import Boxes
from sslkit.contracts.arrays import FORM, TOLERANCE, array_fault, named
from sslkit.contracts.blame import blamed, breach
from sslkit.contracts.sources import missing_message
from sslkit.plugins import Component


class CheckedProposer(Proposer):
    """A proposer, checked: wrong answers and failures of any method are told with its plugin and line.

    It passes for an instance of the proposer's class, with all of its attributes.

    Args:
        component: The proposer's component.
        proposer: The proposer.

    Raises:
        PluginError: By every method, if the proposer fails or returns what its contract does not allow.
    """

    def __init__(self, component: Component, proposer: Proposer) -> None:
        self.component, self.proposer = component, proposer

    @property  # type: ignore[misc] # what isinstance() goes by
    def __class__(self) -> type[Any]:
        """Return the class of the proposer."""
        return type(self.proposer)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the proposer."""
        return getattr(self.proposer, name)

    def missing(self, source: Source) -> str | None:
        """Return the proposer's message, or None if nothing is missing."""
        return missing_message(self.component, self.proposer, source)

    def build(self, source: Source, progress: Progress, jobs: int, *more: Any) -> None:
        """Let the proposer build its proposals; `more` is what its own class takes."""
        with blamed(self.component, "build"):
            self.proposer.build(source, progress, jobs, *more)

    def open(self, source: Source) -> CheckedProposals:
        """Return the proposals of a source."""
        with blamed(self.component, "open"):
            proposals: Any = self.proposer.open(source)
        if not isinstance(proposals, Proposals):
            what = f"returned {named(proposals)}: return a subclass of sslkit.api.Proposals"
            raise breach(self.component, "open", what)
        checked = CheckedProposals(self.component, proposals)
        if len(checked) != len(source):
            what = f"returned proposals of {len(checked)} images, and the source has {len(source)}"
            raise breach(self.component, "open", what)
        return checked


class CheckedProposals(Proposals):
    """Proposals whose boxes are checked when they are read.

    They pass for an instance of the proposals' class, with all of its attributes.

    Args:
        component: The proposer that opened them.
        proposals: The proposals.
    """

    def __init__(self, component: Component, proposals: Proposals) -> None:
        self.component, self.proposals = component, proposals

    @property  # type: ignore[misc] # what isinstance() goes by
    def __class__(self) -> type[Any]:
        """Return the class of the proposals."""
        return type(self.proposals)

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how loader processes make their copy: by `__class__`, pickle would make other proposals."""
        return CheckedProposals, (self.component, self.proposals)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the proposals."""
        return getattr(self.proposals, name)

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
        return box_functions.within(boxes, height, width)

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
