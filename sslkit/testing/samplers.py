"""Checks of view samplers, on sizes and boxes alone."""

from __future__ import annotations

import math

import numpy as np

from sslkit.api import Sample, ViewSampler
from sslkit.boxes import Boxes, empty
from sslkit.testing.case import Case, pickled, random_state_left_alone

SIZES = ((120, 160), (160, 120), (480, 640))
TINY = ((20, 20), (20, 300), (2, 2), (1, 1), (1, 500), (500, 1))
HUGE = ((3000, 12_000), (12_000, 9000))


def proposals_of(height: int, width: int, count: int = 40, seed: int = 0) -> Boxes:
    """Make proposals of all sizes inside an image."""
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * np.maximum((width - 1, height - 1), 0)
    high = np.minimum(low + 1 + rng.random((count, 2)) * (width, height), (width, height))
    return np.concatenate([low, high], axis=1).astype(np.float32)


def draw(sampler: ViewSampler, height: int, width: int, proposals: Boxes, seed: int = 0) -> Sample:
    """Draw with a generator of this seed."""
    return sampler.sample(height, width, proposals, np.random.default_rng(seed))


def _sound(sampler: ViewSampler, height: int, width: int, proposals: Boxes, seed: int) -> None:
    """Assert that one draw is what the sampler promises."""
    sample = draw(sampler, height, width, proposals, seed)
    where = f"in an image of {height} x {width} with {len(proposals)} proposals"
    assert isinstance(sample, Sample), f"sample() returned {type(sample).__name__}, not sslkit.api.Sample"
    assert set(sample.boxes) == set(sampler.groups), f"groups are {set(sampler.groups)}, drawn {set(sample.boxes)}"
    for group, count in sampler.groups.items():
        boxes = np.asarray(sample.boxes[group])
        assert boxes.shape == (count, 4), f"'{group}' has shape {boxes.shape} {where}, not {(count, 4)}"
        assert boxes.dtype.kind == "f", f"'{group}' is of {boxes.dtype}, not float"
        assert np.isfinite(boxes).all(), f"'{group}' is not finite {where}"
        inside = (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
        assert inside, f"'{group}' leaves the image {where}: {boxes.tolist()}"
        assert (boxes[:, 2:] > boxes[:, :2]).all(), f"'{group}' holds empty boxes {where}: {boxes.tolist()}"
    bad = {name: value for name, value in sample.counts.items() if not math.isfinite(float(value))}
    assert not bad, f"counts are not finite {where}: {bad}"


def check_groups(case: Case) -> None:
    """`groups` names at least one view group, with positive numbers, the same each time."""
    groups = dict(case.shared.groups)
    assert groups, "groups is empty"
    for name, count in groups.items():
        assert isinstance(name, str) and name.replace("_", "-").replace("-", "").isalnum(), f"group {name!r}"  # noqa: PT018
        assert isinstance(count, int) and count >= 1, f"groups['{name}'] = {count!r}, not a positive number"  # noqa: PT018
    assert dict(case.shared.groups) == groups, "groups changes from one look to the next"


def check_boxes(case: Case) -> None:
    """Boxes are as many as promised, finite, not empty and inside the image."""
    for height, width in SIZES:
        for seed in range(20):
            _sound(case.shared, height, width, proposals_of(height, width, seed=seed), seed)


def check_tiny_images(case: Case) -> None:
    """The same in images of a few pixels, and of one."""
    for height, width in TINY:
        for seed in range(5):
            _sound(case.shared, height, width, proposals_of(height, width, 5, seed), seed)


def check_huge_images(case: Case) -> None:
    """The same in panoramas."""
    for height, width in HUGE:
        for seed in range(3):
            _sound(case.shared, height, width, proposals_of(height, width, 500, seed), seed)


def check_no_proposals(case: Case) -> None:
    """The same when nothing was proposed."""
    for height, width in (*SIZES, *TINY):
        for seed in range(3):
            _sound(case.shared, height, width, empty(), seed)


def check_poor_proposals(case: Case) -> None:
    """The same when there is one proposal, the same many times, or the whole image."""
    height, width = SIZES[0]
    one = proposals_of(height, width, 1)
    whole = np.array([[0, 0, width, height]], np.float32)
    pixel = np.array([[5, 5, 6, 6]], np.float32)
    for boxes in (one, np.repeat(one, 30, axis=0), whole, pixel):
        for seed in range(5):
            _sound(case.shared, height, width, boxes, seed)


def check_deterministic(case: Case) -> None:
    """Equal generators give equal boxes, whatever was drawn before."""
    proposals = proposals_of(120, 160)
    first = draw(case.shared, 120, 160, proposals, 1)
    draw(case.shared, 300, 200, empty(), 2)
    for sampler in (case.shared, case.make(), pickled(case.shared)):
        again = draw(sampler, 120, 160, proposals, 1)
        same = all(np.array_equal(first.boxes[group], again.boxes[group]) for group in first.boxes)
        assert same, "equal generators give different boxes: all that is random must come from rng"


def check_random_state(case: Case) -> None:
    """It uses no other randomness than the generator that it is given."""
    with random_state_left_alone("sample()"):
        draw(case.shared, 120, 160, proposals_of(120, 160))
        draw(case.shared, 20, 20, empty())


def check_proposals_untouched(case: Case) -> None:
    """It does not write into the proposals, which may be mapped from a file that cannot be written."""
    proposals = proposals_of(120, 160)
    proposals.setflags(write=False)
    try:
        draw(case.shared, 120, 160, proposals)
    except ValueError as error:
        raise AssertionError(f"sample() writes into the proposals: {error}") from None


SAMPLER = (
    check_groups,
    check_boxes,
    check_tiny_images,
    check_huge_images,
    check_no_proposals,
    check_poor_proposals,
    check_deterministic,
    check_random_state,
    check_proposals_untouched,
)
