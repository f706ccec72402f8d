"""A checked proposer answers as the proposer does, and passes for one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from sslkit.api import Proposals, Proposer, no_progress
from sslkit.contracts.proposals import CheckedProposals, CheckedProposer
from sslkit.errors import DataError, PluginError
from sslkit.plugins import Component, Owner
from tests.sslkit.contracts.zoo import BOXES, Proposing, Same

COMPONENT = Component("proposer", "here/stored", Proposing, Owner("here", "here", "1"))


class Stored(Proposing):
    """Build with an argument more, and say what it needs."""

    rules = "strict"

    def missing(self, source):
        return "build it"

    def build(self, source, progress, jobs, share="all"):
        self.built = (len(source), jobs, share)


@pytest.fixture
def stored():
    return CheckedProposer(COMPONENT, Stored())


def test_it_is_the_proposer(stored):
    assert isinstance(stored, Stored)
    assert isinstance(stored, Proposer)
    assert not isinstance(stored, Proposals)
    assert (stored.name, stored.rules, stored.missing("abc")) == ("proposing", "strict", "build it")
    stored.build("abc", no_progress, 2)
    assert stored.built == (3, 2, "all")
    stored.build("abc", no_progress, 2, "1/4")
    assert stored.built == (3, 2, "1/4")
    proposals = stored.open("abc")
    assert isinstance(proposals, Same)
    assert (len(proposals), proposals.images) == (3, 3)
    assert proposals[2] is BOXES


@pytest.mark.parametrize("copied", [lambda part: pickle.loads(pickle.dumps(part)), copy.copy, copy.deepcopy])
def test_a_copy_is_checked_as_well(stored, copied):
    proposals = copied(stored.open("abc"))
    assert type(proposals) is CheckedProposals
    assert np.array_equal(proposals[1], BOXES)
    assert proposals.component == COMPONENT


@pytest.mark.parametrize("method", ["missing", "build", "open"])
@pytest.mark.parametrize(("error", "expected"), [(KeyError("a"), PluginError), (DataError("not built"), DataError)])
def test_failures_are_the_plugins_unless_it_explains_them(monkeypatch, stored, method, error, expected):
    def fail(*given):
        raise error

    monkeypatch.setattr(Stored, method, fail)
    with pytest.raises(expected):
        getattr(stored, method)("abc", *([no_progress, 1] if method == "build" else []))


def fixed(*boxes, dtype=np.float32):
    class Fixed(Same):
        def __getitem__(self, index):
            return np.array(boxes, dtype).reshape(-1, 4)

    return CheckedProposals(COMPONENT, Fixed(1))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([[1, 2, 30, 20]], [[1, 2, 30, 20]]),
        ([[0, 0, 48, 40], [0, 0, 48, 40]], [[0, 0, 48, 40], [0, 0, 48, 40]]),
        ([[-0.9, 1, 30, 40.9]], [[0, 1, 30, 40]]),
        ([[5, 5, 5, 9], [5, 5, 9, 5.5], [5, 5, 9, 6]], [[5, 5, 9, 6]]),
        ([[47.5, 0, 48.5, 20]], []),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_right_boxes_are_clipped(given, expected, dtype):
    boxes = fixed(*given, dtype=dtype).within(0, 40, 48)
    assert boxes.tolist() == expected
    assert (boxes.dtype, boxes.shape[1]) == (np.float32, 4)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0, 0, 49.5, 9], "reaches outside the image of 48 x 40 pixels"),
        ([0, -1.5, 9, 9], "reaches outside"),
        ([100, 100, 120, 120], "reaches outside"),
        ([1e30, 0, 9, 9], "reaches outside"),
        ([np.nan, 0, 9, 9], "not finite"),
        ([0, 0, 9, -np.inf], "not finite"),
        ([9, 0, 8.9, 9], "inverted"),
        ([0, 9, 9, 0], "inverted"),
    ],
)
def test_the_first_wrong_box_is_told(box, words):
    with pytest.raises(PluginError, match=rf"__getitem__\(\) returned for image 0 box 2: .*{words}"):
        fixed([0, 0, 9, 9], [5, 5, 5, 5], box, [np.nan] * 4).within(0, 40, 48)
