"""Checks of view samplers, with image sizes and proposals only."""

from __future__ import annotations

import math

import numpy as np

from sslkit.api import Sample, ViewSampler
from sslkit.boxes import Boxes, empty
from sslkit.testing.case import Case, pickled, unchanged_random_state

SIZES = ((120, 160), (160, 120), (480, 640))
TINY = ((20, 20), (20, 300), (2, 2), (1, 1), (1, 500), (500, 1))
HUGE = ((3000, 12_000), (12_000, 9000))


def proposals_of(height: int, width: int, count: int = 40, seed: int = 0) -> Boxes:
    """Make random proposals of all sizes inside an image."""
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * np.maximum((width - 1, height - 1), 0)
    high = np.minimum(low + 1 + rng.random((count, 2)) * (width, height), (width, height))
    return np.concatenate([low, high], axis=1).astype(np.float32)


def draw(sampler: ViewSampler, height: int, width: int, proposals: Boxes, seed: int = 0) -> Sample:
    """Draw a sample with a generator of this seed."""
    return sampler.sample(height, width, proposals, np.random.default_rng(seed))


def _check_draw(sampler: ViewSampler, height: int, width: int, proposals: Boxes, seed: int) -> None:
    """Assert that one draw keeps the contract."""
    sample = draw(sampler, height, width, proposals, seed)
    where = f"in an image of {height} x {width} with {len(proposals)} proposals"
    assert isinstance(sample, Sample), f"sample() returned {type(sample).__name__}: return sslkit.api.Sample"
    assert set(sample.boxes) == set(sampler.groups), (
        f"groups names {set(sampler.groups)}, but sample() returned {set(sample.boxes)}"
    )
    for group, count in sampler.groups.items():
        boxes = np.asarray(sample.boxes[group])
        assert boxes.shape == (count, 4), f"'{group}' has shape {boxes.shape} {where}, not {(count, 4)}"
        assert boxes.dtype.kind == "f", f"'{group}' is of type {boxes.dtype}: convert it to float32"
        assert np.isfinite(boxes).all(), f"'{group}' has boxes that are not finite {where}"
        inside = (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
        assert inside, f"'{group}' has boxes outside the image {where}: {boxes.tolist()}"
        assert (boxes[:, 2:] > boxes[:, :2]).all(), f"'{group}' has empty boxes {where}: {boxes.tolist()}"
    bad = {name: value for name, value in sample.counts.items() if not math.isfinite(float(value))}
    assert not bad, f"counts are not finite {where}: {bad}"


def check_groups(case: Case) -> None:
    """`groups` names at least one view group, each with a positive number of views, and does not change."""
    groups = dict(case.shared.groups)
    assert groups, "groups is empty: name at least one view group"
    for name, count in groups.items():
        valid = isinstance(name, str) and name.replace("_", "-").replace("-", "").isalnum()
        assert valid, f"group {name!r}: write letters, digits, '-' and '_' only"
        assert isinstance(count, int) and count >= 1, f"groups['{name}'] = {count!r}, not a positive number"  # noqa: PT018
    assert dict(case.shared.groups) == groups, "groups changes from one call to the next"


def check_boxes(case: Case) -> None:
    """`sample` returns the promised number of boxes, finite, not empty and inside the image."""
    for height, width in SIZES:
        for seed in range(20):
            _check_draw(case.shared, height, width, proposals_of(height, width, seed=seed), seed)


def check_tiny_images(case: Case) -> None:
    """Boxes are valid in images of a few pixels, and of one."""
    for height, width in TINY:
        for seed in range(5):
            _check_draw(case.shared, height, width, proposals_of(height, width, 5, seed), seed)


def check_huge_images(case: Case) -> None:
    """Boxes are valid in large images and panoramas."""
    for height, width in HUGE:
        for seed in range(3):
            _check_draw(case.shared, height, width, proposals_of(height, width, 500, seed), seed)


def check_no_proposals(case: Case) -> None:
    """Boxes are valid without any proposals."""
    for height, width in (*SIZES, *TINY):
        for seed in range(3):
            _check_draw(case.shared, height, width, empty(), seed)


def check_poor_proposals(case: Case) -> None:
    """Boxes are valid with one proposal, with repeated ones, and with one of the whole image or of one pixel."""
    height, width = SIZES[0]
    one = proposals_of(height, width, 1)
    full = np.array([[0, 0, width, height]], np.float32)
    pixel = np.array([[5, 5, 6, 6]], np.float32)
    for boxes in (one, np.repeat(one, 30, axis=0), full, pixel):
        for seed in range(5):
            _check_draw(case.shared, height, width, boxes, seed)


def check_deterministic(case: Case) -> None:
    """Generators of one seed give equal boxes, whatever was drawn before."""
    proposals = proposals_of(120, 160)
    first = draw(case.shared, 120, 160, proposals, 1)
    draw(case.shared, 300, 200, empty(), 2)
    for sampler in (case.shared, case.make(), pickled(case.shared)):
        repeated = draw(sampler, 120, 160, proposals, 1)
        same = all(np.array_equal(first.boxes[group], repeated.boxes[group]) for group in first.boxes)
        assert same, "generators of one seed give different boxes: draw all random numbers from rng"


def check_random_state(case: Case) -> None:
    """`sample` uses no random numbers besides those of its generator."""
    with unchanged_random_state("sample()"):
        draw(case.shared, 120, 160, proposals_of(120, 160))
        draw(case.shared, 20, 20, empty())


def check_proposals_untouched(case: Case) -> None:
    """`sample` does not write into the proposals, which may be mapped from a read-only file."""
    proposals = proposals_of(120, 160)
    proposals.setflags(write=False)
    try:
        draw(case.shared, 120, 160, proposals)
    except ValueError as error:
        raise AssertionError(f"sample() writes into the proposals: {error}; work on a copy") from None


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
