"""UniVIP's sampler: two scene views whose overlap contains the instances."""

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
from sslkit_univip.crops import intersect, pull, shortest_sides
from sslkit_univip.filling import Constraints, fill, jitter_boxes

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0)]


class Attempts(NamedTuple):
    """All attempts for one image, drawn at once.

    Attributes:
        scenes: Shape (attempts, 2, 4).
        overlap: Shape (attempts, 4): the overlap T of each pair, inverted where the scenes do not overlap.
        inside: Shape (attempts, n), bool: which proposals lie inside T.
        large: Shape (attempts,), bool: whether T is large enough.
    """

    scenes: FloatBoxes
    overlap: FloatBoxes
    inside: npt.NDArray[np.bool_]
    large: npt.NDArray[np.bool_]


class OverlappingScenes(ViewSampler):
    """Two random crops whose overlap fully contains `instances` region proposals: UniVIP, algorithm 1.

    An attempt draws two random resized crops and intersects them. It succeeds if the sides of the overlap are at least
    `min_overlap` and at least `instances` proposals lie inside it. The first success is used. If none of `attempts`
    succeeds, the sampler uses the attempt whose overlap contains the most proposals, preferring overlaps with sides of
    `min_overlap`, and adds random boxes inside the overlap, as the authors described in a reply. If no
    overlap is large enough, the second scene of the best attempt is moved, no further than needed. Random boxes satisfy
    `min_side`, `max_aspect` and `max_iou`. If they do not fit, these constraints are relaxed step by step: half the
    side, a quarter, any shape, any overlap.

    In an image whose short side is less than twice `min_overlap`, `min_overlap` is half the short side instead, and
    `min_side` shrinks in proportion.

    Counts per image: `draws` (attempts until success), `fallback` (0 or 1), `filled` (random boxes added), `relaxed`
    (steps by which constraints were relaxed, 0 to 4), `moved` (0 or 1: whether the second scene was moved).

    Args:
        instances: Boxes per image, K.
        attempts: Attempts before the fallback (the paper's text; its listing allows one more).
        scale: Area of a scene as a fraction of the image's, minimum and maximum.
        ratio: Width / height of a scene, minimum and maximum.
        choose: Which proposals to use when there are more than needed: a `random` subset, or the `first` in the list
            (the listing, literally; it favours small regions and uses the same ones every time).
        order: `list` keeps the chosen boxes in the order of the list, random boxes last; `random` shuffles all.
        min_overlap: Smallest width and height of the overlap, in pixels; four boxes of side s that overlap by no more
            than IoU 0.5 need 4/3 s.
        min_side: Smallest width and height of random boxes, in pixels.
        max_aspect: Largest ratio of the longer to the shorter side of random boxes.
        max_iou: Largest IoU of a random box with any other box.
        jitter: Shift and reshape boxes as in ORL, inside the overlap; UniVIP does not mention it.
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
        self.constraints = Constraints(min_side, max_aspect, max_iou)
        self.jitter = jitter

    @property
    def groups(self) -> Mapping[str, int]:
        """View groups: two scenes and the instances."""
        return {"scene": 2, "instance": self.instances}

    def sample(self, height: int, width: int, proposals: Boxes, rng: np.random.Generator) -> Sample:
        """Draw two scenes and the instances in their overlap, as the class describes."""
        boxes = drop_thin(proposals)
        side = self._overlap_side(height, width)
        attempts = self._draw_attempts(height, width, boxes, side, rng)
        success = attempts.large & (attempts.inside.sum(axis=1) >= self.instances)
        if success.any():
            return self._accept(boxes, attempts, int(success.argmax()), rng)
        return self._fall_back(boxes, attempts, side, rng)

    def _overlap_side(self, height: int, width: int) -> float:
        """Return the smallest allowed side of the overlap in an image of this size."""
        return max(1.0, min(self.min_overlap, min(height, width) / 2))

    def _draw_attempts(
        self, height: int, width: int, boxes: FloatBoxes, side: float, rng: np.random.Generator
    ) -> Attempts:
        scenes = random_crops(height, width, (self.attempts, 2), self.scale, self.ratio, rng)
        overlap = intersect(scenes[:, 0], scenes[:, 1])
        return Attempts(scenes, overlap, boxes_inside(boxes, overlap), np.asarray(shortest_sides(overlap) >= side))

    def _accept(self, boxes: FloatBoxes, attempts: Attempts, best: int, rng: np.random.Generator) -> Sample:
        chosen = self._choose(boxes[attempts.inside[best]], rng)
        return self._make_sample(attempts.scenes[best], chosen, attempts.overlap[best], {"draws": best + 1}, rng)

    def _fall_back(self, boxes: FloatBoxes, attempts: Attempts, side: float, rng: np.random.Generator) -> Sample:
        best = int(np.lexsort((shortest_sides(attempts.overlap), attempts.inside.sum(axis=1), attempts.large))[-1])
        scenes, overlap, inside = attempts.scenes[best], attempts.overlap[best], attempts.inside[best]
        moved = not attempts.large[best]
        if moved:
            scenes = np.stack([scenes[0], pull(scenes[1], scenes[0], side)])
            overlap = intersect(scenes[0], scenes[1])
            inside = boxes_inside(boxes, overlap)
        chosen = self._choose(boxes[inside], rng)
        filled, level = fill(chosen, overlap, self.instances, self._scaled_constraints(side), rng)
        counts = {"draws": self.attempts, "fallback": 1, "filled": self.instances - len(chosen), "relaxed": level}
        return self._make_sample(scenes, filled, overlap, counts | {"moved": int(moved)}, rng)

    def _scaled_constraints(self, side: float) -> Constraints:
        """Scale `min_side` of random boxes with the smallest allowed `side` of the overlap."""
        return replace(self.constraints, min_side=max(1.0, self.constraints.min_side * side / self.min_overlap))

    def _choose(self, boxes: FloatBoxes, rng: np.random.Generator) -> FloatBoxes:
        """Choose at most `instances` boxes and keep the order of the list."""
        if self.choose == "first" or len(boxes) <= self.instances:
            return boxes[: self.instances]
        return boxes[np.sort(rng.permutation(len(boxes))[: self.instances])]

    def _make_sample(
        self,
        scenes: FloatBoxes,
        boxes: FloatBoxes,
        overlap: FloatBoxes,
        counts: Mapping[str, int],
        rng: np.random.Generator,
    ) -> Sample:
        if self.order == "random":
            boxes = boxes[rng.permutation(len(boxes))]
        if self.jitter:
            boxes = jitter_boxes(boxes, overlap, rng)
        groups = {"scene": scenes.astype(np.float32), "instance": boxes.astype(np.float32)}
        return Sample(groups, {name: float(counts.get(name, 0)) for name in COUNTS})


COUNTS = ("draws", "fallback", "filled", "relaxed", "moved")


def drop_thin(proposals: Boxes) -> FloatBoxes:
    """Drop boxes that are less than one pixel wide or high."""
    boxes = np.asarray(proposals, np.float64).reshape(-1, 4)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)]


def boxes_inside(boxes: FloatBoxes, regions: FloatBoxes) -> npt.NDArray[np.bool_]:
    """Return which boxes (n, 4) lie fully inside each region (..., 4), edges included: shape (..., n)."""
    regions = regions[..., None, :]
    fits = (boxes[:, :2] >= regions[..., :2]) & (boxes[:, 2:] <= regions[..., 2:])
    return np.asarray(fits.all(axis=-1))


def _check_range(name: str, limits: Range) -> None:
    if limits[0] > limits[1]:
        raise ValueError(
            f"{name} = [{limits[0]}, {limits[1]}]: the minimum comes first; write [{limits[1]}, {limits[0]}]"
        )
