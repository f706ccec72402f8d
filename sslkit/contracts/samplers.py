"""A view sampler whose samples are checked."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from sslkit.api import Sample, ViewSampler
from sslkit.boxes import Boxes
from sslkit.contracts.arrays import array_fault, box_fault, is_finite, named, shown
from sslkit.contracts.blame import blamed, breach
from sslkit.plugins import Component


class CheckedSampler(ViewSampler):
    """A view sampler whose samples are checked: the boxes of its view groups, and its counts.

    Args:
        component: The sampler's component.
        sampler: The sampler.
    """

    def __init__(self, component: Component, sampler: ViewSampler) -> None:
        self.component, self.sampler = component, sampler
        self._groups = dict(sampler.groups)
        self._counts: set[str] | None = None

    @property
    def groups(self) -> Mapping[str, int]:
        """View group -> number of views."""
        return self._groups

    def sample(self, height: int, width: int, proposals: Boxes, rng: np.random.Generator) -> Sample:
        """Draw the views of one image.

        Raises:
            PluginError: The sampler failed, or its sample breaks the contract.
        """
        with blamed(self.component, "sample"):
            sample = self.sampler.sample(height, width, proposals, rng)
        if fault := self._fault(sample, height, width):
            raise breach(self.component, "sample", f"returned {fault}")
        return sample

    def _fault(self, sample: Any, height: int, width: int) -> str | None:
        if not isinstance(sample, Sample):
            return f"{named(sample)}: return a sslkit.api.Sample"
        if not isinstance(sample.boxes, Mapping):
            return f"{named(sample.boxes)} as boxes: write a dict, view group -> boxes"
        if sample.boxes.keys() != self._groups.keys():
            groups, promised = (", ".join(map(repr, part)) or "none" for part in (sample.boxes, self._groups))
            return f"boxes of the view groups {groups}, and `groups` promises {promised}: return all of these, no other"
        for group, count in self._groups.items():
            if fault := _group_fault(sample.boxes[group], count, height, width):
                return f"for view group '{group}' {fault}"
        return self._count_fault(sample.counts)

    def _count_fault(self, counts: Any) -> str | None:
        if not isinstance(counts, Mapping):
            return f"{named(counts)} as counts: write a dict, name -> number"
        for name, value in counts.items():
            if not isinstance(name, str):
                return f"{shown(name)} as the name of a count: write a string"
            if not isinstance(value, (Real, np.bool_)) or not is_finite(value):
                actual = shown(value) if isinstance(value, (str, Real)) else named(value)
                return f"{actual} as count '{name}': write a finite number"
        if self._counts is None:
            self._counts = set(counts)
        elif counts.keys() != self._counts:
            before, now = (", ".join(map(repr, sorted(part))) or "none" for part in (self._counts, counts))
            return f"the counts {now}, and {before} for another image: return all of them each time, 0 where none apply"
        return None


def _group_fault(boxes: Any, count: int, height: int, width: int) -> str | None:
    if fault := array_fault(boxes, count):
        return f"{fault}, one box for each view"
    with np.errstate(over="ignore"):
        exact = boxes.astype(np.float32, copy=False)  # what a batch holds: small boxes may be empty in it
    for place, box in enumerate(exact.tolist()):
        if fault := box_fault(box, height, width):
            return f"box {place}: {fault}"
    return None
