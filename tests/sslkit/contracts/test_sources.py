"""A checked source answers as the source does, in any process and from any thread."""

from __future__ import annotations

import copy
import pickle
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from sslkit.api import Objects, Source
from sslkit.contracts.sources import CheckedSource, refuse_repeated_keys
from sslkit.errors import DataError, PluginError
from sslkit.plugins import Component, Owner
from tests.conftest import Dots


def checked(cls: type[Any] = Dots, **options: Any) -> CheckedSource:
    component = Component("source", "here/dots", cls, Owner("here", "here", "1"))
    source = CheckedSource(component, cls(**options))
    source.open()
    return source


def test_it_is_the_source():
    plain, source = Dots(images=7, first=3), checked(images=7, first=3)
    assert len(source) == 7
    assert [source.key(index) for index in range(7)] == [plain.key(index) for index in range(7)]
    assert source.read(5) == plain.read(5)
    assert list(source.categories) == ["red", "green"]
    assert source.name == "dots"
    assert source.first == 3, "attributes beyond the contract"
    assert np.array_equal(source.objects(1).boxes, plain.objects(1).boxes)
    assert source.label(1) is None
    assert source.left_out() == {}
    with pytest.raises(AttributeError, match="nothing"):
        source.nothing  # noqa: B018


def test_every_method_of_a_source_is_checked():
    """A method with a default would otherwise answer in the source's place."""
    methods = {name for name, value in vars(Source).items() if callable(value) and not name.startswith("_")}
    assert methods <= vars(CheckedSource).keys()
    assert "__len__" in vars(CheckedSource)


@pytest.mark.parametrize("copied", [lambda source: pickle.loads(pickle.dumps(source)), copy.copy, copy.deepcopy])
def test_a_copy_reads_the_same(copied):
    source = checked(images=5)
    other = copied(source)
    assert (len(other), other.read(4), other.first) == (5, source.read(4), 0)


class Watched(Dots):
    """Notes how many threads ask at once."""

    reading = most = 0

    def watch(self, answer):
        self.reading += 1
        self.most = max(self.most, self.reading)
        time.sleep(0.002)
        self.reading -= 1
        return answer

    def read(self, index):
        return self.watch(b"image")

    def key(self, index):
        return self.watch(str(index))

    def label(self, index):
        return self.watch(None)

    def objects(self, index):
        return self.watch(Objects())


@pytest.mark.parametrize(("allowed", "several"), [(False, False), (True, True)])
def test_threads_wait_for_each_other_unless_the_source_allows_several(allowed, several):
    source = checked(type("Allowing", (Watched,), {"reads_in_threads": allowed}))
    asked = [source.read, source.key, source.label, source.objects]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: asked[index % 4](index % 12), range(24)))
    assert (source.most > 1) == several
    for one in asked:
        source.source.most = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(8)))
        assert (source.most > 1) == several


@pytest.mark.parametrize(
    ("returned", "answer"), [(None, None), (1, 1), (np.int32(1), 1), (np.uint8(0), 0), (np.array([0, 1])[1], 1)]
)
def test_right_labels_are_taken(returned, answer):
    label = checked(type("Labels", (Dots,), {"label": lambda self, index: returned})).label(0)
    assert (label, type(label)) == (answer, type(answer))


@pytest.mark.parametrize(
    "objects",
    [
        Objects(),
        Objects(np.array([[1.5, 2, 30, 20]]), np.array([1], np.uint16)),
        Objects(np.array([[1, 2, 1, 20]], np.float32), np.array([0]), np.array([False])),  # empty: below any min_side
        Objects(np.array([[-1e-4, 0, 9, 9], [0, 0, 9, 9]], np.float32), np.array([0, 1]), None, 3),
        Objects(np.array([[-0.5, 0, 9, 9], [0, -1, 9, 9]], np.float32), np.array([0, 1])),
    ],
)
def test_right_objects_are_taken(objects):
    answer = checked(type("Objective", (Dots,), {"objects": lambda self, index: objects})).objects(0)
    assert (answer.boxes.dtype, answer.labels.dtype) == (np.float32, np.int64)
    assert np.array_equal(answer.boxes, np.maximum(objects.boxes, 0).astype(np.float32)), (
        "clipped at the left and the top"
    )
    assert np.array_equal(answer.labels, objects.labels)
    assert (answer.difficult, answer.outside) == (objects.difficult, objects.outside)


@pytest.mark.parametrize("error", [DataError("cannot be read"), DataError("no such file")])
def test_errors_that_the_source_explains_pass(error):
    def read(self, index):
        raise error

    with pytest.raises(DataError) as caught:
        checked(type("Failing", (Dots,), {"read": read})).read(0)
    assert caught.value is error


def test_equal_hashes_are_not_equal_keys():
    source = checked(images=4)
    refuse_repeated_keys(source, array("q", [5, 7, 5, 9]))  # image 0 and 2 by chance
    repeated = checked(type("Repeated", (Dots,), {"key": lambda self, index: ("a", "b", "c", "b")[index]}), images=4)
    with pytest.raises(PluginError, match=r"key\(\) returned 'b' for image 1 and for image 3: keys are unique"):
        refuse_repeated_keys(repeated, array("q", map(hash, "abcb")))


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ([0, 0, np.nan, 9], "is not finite"), ([-np.inf, 0, 9, 9], "is not finite"), ([9, 0, 3, 9], "is inverted: boxes are left, top"),
        ([0, -1.5, 9, 9], "reaches 1.5 pixels outside the image"), ([-40, 0, 9, 9], "reaches 40 pixels outside"), ([-9, -9, -3, -3], "reaches 9 pixels"),
    ],
)  # fmt: skip
def test_wrong_boxes_are_told_with_what_is_wrong(box, why):
    objects = Objects(np.array([[0, 0, 5, 5], box], np.float32), np.array([0, 1]))
    with pytest.raises(PluginError, match=rf"for image 3 box 1: \[.*\], which {why}"):
        checked(type("Wrong", (Dots,), {"objects": lambda self, index: objects})).objects(3)


@pytest.mark.parametrize("box", [[-1, 0, 48, 40], [0, -1, 48, 40], [0, 0, 49, 40], [0, 0, 48, 41]])
def test_all_four_sides_have_one_tolerance(box):
    for far in (0.0, 0.2):
        value = np.array([box], np.float32) + far * np.sign(np.array(box) - [0, 0, 48, 40])
        source = checked(
            type("Near", (Dots,), {"objects": lambda self, index, value=value: Objects(value, np.array([0]))})
        )
        if not far:
            source.refuse_outside(0, source.objects(0).boxes, 40, 48)
            continue
        with pytest.raises(PluginError, match="the image|upright image"):
            source.refuse_outside(0, source.objects(0).boxes, 40, 48)


@pytest.mark.parametrize("counts", [{"crowds": -1}, {"crowds": 2, "empty": -30}, {"a": np.int64(-2)}])
def test_counts_of_what_is_left_out_are_at_least_0(counts):
    source = checked(type("Left", (Dots,), {"left_out": lambda self: counts}))
    with pytest.raises(PluginError, match=r"left_out\(\) returned \{.*: numbers are at least 0"):
        source.left_out()


def test_a_number_of_objects_outside_is_at_least_0():
    with pytest.raises(PluginError, match="-1 as outside: write the number"):
        checked(type("Left", (Dots,), {"objects": lambda self, index: Objects(outside=-1)})).objects(0)
