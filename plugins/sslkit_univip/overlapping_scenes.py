"""The sampler of UniVIP: two scenes whose overlap holds instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sslkit.api import Sample, ViewSampler
from sslkit.boxes import Boxes
from sslkit.crops import FloatBoxes, Range, random_crops
from sslkit_univip.crops import overlaps, pulled, shortest_sides
from sslkit_univip.filling import Constraints, fill, jittered

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0)]


class Tries(NamedTuple):
    """All tries of one image at once.

    Attributes:
        scenes: Shape (tries, 2, 4).
        shared: Shape (tries, 4): the overlap T of each pair, inverted where there is none.
        held: Shape (tries, n), bool: which proposals lie inside T.
        wide: Shape (tries,), bool: whether T is large enough.
    """

    scenes: FloatBoxes
    shared: FloatBoxes
    held: npt.NDArray[np.bool_]
    wide: npt.NDArray[np.bool_]


class OverlappingScenes(ViewSampler):
    """Two random crops whose overlap wholly holds `instances` region proposals: UniVIP, algorithm 1.

    A try draws two random resized crops and intersects them. It succeeds when the overlap has sides of `min_overlap` or
    more and at least `instances` proposals lie inside it. The first success is taken. When none of `attempts` tries
    succeeds, the try whose overlap holds most proposals is taken, those with sides of `min_overlap` first, and random
    boxes inside the overlap complete them, as the authors said in reply to a question. If no overlap is large enough,
    the second scene of the best try is moved, no further than needed. Made-up boxes obey `min_side`, `max_aspect` and
    `max_iou`; when they find no room, these give way step by step: half the side, a quarter, any shape, any overlap.

    In an image whose short side is less than twice `min_overlap`, `min_overlap` is half the short side instead, and
    `min_side` shrinks with it.

    Counts per image: `draws` (tries until success), `fallback` (0 or 1), `filled` (boxes made up), `relaxed` (steps
    that constraints gave way, 0 to 4), `moved` (0 or 1: whether the second scene was).

    Args:
        instances: Boxes per image, K.
        attempts: Tries before the fallback (the paper's text; its listing allows one more).
        scale: Area of a scene as a share of the image's, least and most.
        ratio: Width / height of a scene, least and most.
        choose: Which proposals are taken when there are more than needed: a `random` subset, or the `first` in their
            list (the listing, literally; it favours small regions and takes the same ones every time).
        order: `list` leaves the taken boxes in the order of their list, made-up ones last; `random` shuffles all.
        min_overlap: Least width and height of the overlap, in pixels; four boxes of side s that overlap by no more than
            IoU 0.5 need 4/3 s.
        min_side: Least width and height of made-up boxes, in pixels.
        max_aspect: Largest ratio of the longer to the shorter side of made-up boxes.
        max_iou: Largest IoU of a made-up box with any other box.
        jitter: Whether boxes are shifted and reshaped as in ORL, inside the overlap; UniVIP does not mention it.
    """

    name: ClassVar[str] = "overlapping-scenes"
    needs_proposals: ClassVar[bool] = True

    def __init__(
        self,
        *,
        instances: Annotated[int, Field(ge=1, le=1000)] = 4,
        attempts: Annotated[int, Field(ge=1, le=1000)] = 20,
        scale: tuple[Share, Share] = (0.08, 1.0),
        ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3),
        choose: Literal["random", "first"] = "random",
        order: Literal["list", "random"] = "list",
        min_overlap: Annotated[int, Field(ge=1)] = 86,
        min_side: Annotated[int, Field(ge=1)] = 64,
        max_aspect: Annotated[float, Field(ge=1)] = 3.0,
        max_iou: Annotated[float, Field(ge=0, le=1)] = 0.5,
        jitter: bool = False,
    ) -> None:
        _check_range("scale", scale)
        _check_range("ratio", ratio)
        self.instances = instances
        self.attempts = attempts
        self.scale: Range = scale
        self.ratio: Range = ratio
        self.choose = choose
        self.order = order
        self.min_overlap = min_overlap
        self.rules = Constraints(min_side, max_aspect, max_iou)
        self.jitter = jitter

    @property
    def groups(self) -> Mapping[str, int]:
        """Two scenes and the instances."""
        return {"scene": 2, "instance": self.instances}

    def sample(self, height: int, width: int, proposals: Boxes, rng: np.random.Generator) -> Sample:
        """Draw two scenes and the instances in their overlap; see the class."""
        boxes = usable(proposals)
        least = self._least(height, width)
        tries = self._tries(height, width, boxes, least, rng)
        enough = tries.wide & (tries.held.sum(axis=1) >= self.instances)
        if enough.any():
            return self._accepted(boxes, tries, int(enough.argmax()), rng)
        return self._fallback(boxes, tries, least, rng)

    def _least(self, height: int, width: int) -> float:
        """Return the least side of the overlap in an image of this size."""
        return max(1.0, min(self.min_overlap, min(height, width) / 2))

    def _tries(self, height: int, width: int, boxes: FloatBoxes, least: float, rng: np.random.Generator) -> Tries:
        scenes = random_crops(height, width, (self.attempts, 2), self.scale, self.ratio, rng)
        shared = overlaps(scenes[:, 0], scenes[:, 1])
        return Tries(scenes, shared, contained(boxes, shared), np.asarray(shortest_sides(shared) >= least))

    def _accepted(self, boxes: FloatBoxes, tries: Tries, best: int, rng: np.random.Generator) -> Sample:
        chosen = self._choose(boxes[tries.held[best]], rng)
        return self._finished(tries.scenes[best], chosen, tries.shared[best], {"draws": best + 1}, rng)

    def _fallback(self, boxes: FloatBoxes, tries: Tries, least: float, rng: np.random.Generator) -> Sample:
        best = int(np.lexsort((shortest_sides(tries.shared), tries.held.sum(axis=1), tries.wide))[-1])
        scenes, shared, held = tries.scenes[best], tries.shared[best], tries.held[best]
        moved = not tries.wide[best]
        if moved:
            scenes = np.stack([scenes[0], pulled(scenes[1], scenes[0], least)])
            shared = overlaps(scenes[0], scenes[1])
            held = contained(boxes, shared)
        found = self._choose(boxes[held], rng)
        filled, level = fill(found, shared, self.instances, self._rules(least), rng)
        counts = {"draws": self.attempts, "fallback": 1, "filled": self.instances - len(found), "relaxed": level}
        return self._finished(scenes, filled, shared, counts | {"moved": int(moved)}, rng)

    def _rules(self, least: float) -> Constraints:
        """Shrink made-up boxes as much as the overlap that they must fit into."""
        return replace(self.rules, min_side=max(1.0, self.rules.min_side * least / self.min_overlap))

    def _choose(self, boxes: FloatBoxes, rng: np.random.Generator) -> FloatBoxes:
        """Take at most `instances` boxes, in the order of their list."""
        if self.choose == "first" or len(boxes) <= self.instances:
            return boxes[: self.instances]
        return boxes[np.sort(rng.permutation(len(boxes))[: self.instances])]

    def _finished(
        self,
        scenes: FloatBoxes,
        boxes: FloatBoxes,
        shared: FloatBoxes,
        counts: Mapping[str, int],
        rng: np.random.Generator,
    ) -> Sample:
        if self.order == "random":
            boxes = boxes[rng.permutation(len(boxes))]
        if self.jitter:
            boxes = jittered(boxes, shared, rng)
        groups = {"scene": scenes.astype(np.float32), "instance": boxes.astype(np.float32)}
        return Sample(groups, {name: float(counts.get(name, 0)) for name in COUNTS})


COUNTS = ("draws", "fallback", "filled", "relaxed", "moved")


def usable(proposals: Boxes) -> FloatBoxes:
    """Drop boxes without a whole pixel of width and height."""
    boxes = np.asarray(proposals, np.float64).reshape(-1, 4)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)]


def contained(boxes: FloatBoxes, regions: FloatBoxes) -> npt.NDArray[np.bool_]:
    """Say which of the boxes (n, 4) lie wholly inside each of the regions (..., 4), edges included: shape (..., n)."""
    regions = regions[..., None, :]
    fits = (boxes[:, :2] >= regions[..., :2]) & (boxes[:, 2:] <= regions[..., 2:])
    return np.asarray(fits.all(axis=-1))


def _check_range(name: str, limits: Range) -> None:
    if limits[0] > limits[1]:
        raise ValueError(
            f"{name} = [{limits[0]}, {limits[1]}]: the least comes first, write the two the other way round"
        )
