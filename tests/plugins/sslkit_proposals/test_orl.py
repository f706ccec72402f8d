import json

import numpy as np
import pytest

from sslkit.api import no_progress
from sslkit.errors import DataError, UsageError
from sslkit_proposals import shards, store
from sslkit_proposals.orl import import_orl, summary
from sslkit_proposals.random_boxes import RandomBoxes
from sslkit_proposals.selective import SelectiveSearch

WHOLE = [0, 0, 160, 120]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD", 4)


@pytest.fixture
def proposer(tmp_path):
    filtered = {"min_sides": (20,), "max_iou": 1.0, "max_aspect": 100, "order": "stored"}
    return SelectiveSearch(store=tmp_path / "store", working_side="full", **filtered)


@pytest.fixture
def write(tmp_path):
    def make(images, name="orl.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"bbox": images}))
        return path

    return make


def run_import(source, proposer, files, annotations=()):
    return import_orl(source, proposer, files, annotations, no_progress)


def xyxy(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def test_boxes_keep_the_files_order_and_may_be_flat(make_source, proposer, write):
    images = [
        [WHOLE, [5, 6, 30, 40], [1, 2, 50, 20]],
        WHOLE,
        [WHOLE],
        [[60, 10, 100, 110], WHOLE],
        [WHOLE, [0, 0, 9, 9]],
    ]
    source = make_source(5)
    result = run_import(source, proposer, [write(images)])
    assert (result.images, list(result.remaining)) == (5, [])
    proposals = proposer.open(source)
    assert proposals[0].tolist() == [xyxy(box) for box in images[0]]
    assert proposals[1].tolist() == proposals[2].tolist() == [xyxy(WHOLE)]
    assert proposals[3].tolist() == [xyxy(box) for box in images[3]]
    assert proposals[4].tolist() == [xyxy(WHOLE)]  # 9 x 9 is below the minimum side
    assert (shards.load_summary(proposer.store(source).path(0)).origins == shards.IMPORTED).all()


def test_a_build_keeps_what_was_imported(make_source, proposer, write, monkeypatch):
    source = make_source(5)
    run_import(source, proposer, [write([WHOLE] * 5)])
    monkeypatch.setattr("sslkit_proposals.build.find_regions", None)  # must not be called
    proposer.build(source, no_progress, 1)
    assert proposer.open(source)[4].tolist() == [WHOLE]


def test_several_files_are_concatenated(make_source, proposer, write):
    source = make_source(3)
    second = [[WHOLE, [1, 1, 40, 40]]]
    run_import(source, proposer, [write([WHOLE, WHOLE]), write(second, "second.json")])
    assert len(proposer.open(source)[2]) == 2


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([{"file_name": "000.png"}, {"file_name": "a/000.png"}], r"images\[1\] has the file_name 'a/000\.png', which"),
        ([{"file_name": "000.png"}, {"id": 1}], r"images\[1\] has no file_name: \{'id': 1\}"),
        ([7], r"images\[0\] has no file_name: 7"),
        ({}, r"'images' is not a list"),
    ],
)
def test_invalid_lists_of_images_are_named(make_source, proposer, write, tmp_path, images, words):
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps({"images": images}))
    with pytest.raises(DataError, match=rf"instances\.json.*{words}"):
        run_import(make_source(2), proposer, [write([[WHOLE]] * 2)], [annotations])


def test_images_are_matched_by_name(make_source, proposer, write, tmp_path):
    source = make_source(5)
    names = ["004.png", "other.png", "002.png", "000.png", "001.png"]
    annotations = tmp_path / "instances.json"
    images = [{"id": n, "file_name": f"somewhere/{name}"} for n, name in enumerate(names)]
    annotations.write_text(json.dumps({"info": {"a": [1]}, "annotations": [{"id": 1}], "images": images}))
    boxes = [[WHOLE, [n, n, 30, 30]] for n in range(5)]
    result = run_import(source, proposer, [write(boxes)], [annotations])
    assert result.images == 4
    assert list(result.remaining) == ["003.png: not in the proposal files"]
    assert "remain to be searched" in "\n".join(summary(result))
    assert proposer.missing(source) is not None
    proposer.build(source, no_progress, 1)
    proposals = proposer.open(source)
    lefts = [proposals[index][1].tolist() for index in (0, 1, 2, 4)]
    assert lefts == [xyxy([n, n, 30, 30]) for n in (3, 4, 2, 0)]
    assert len(proposals[3]) > 2


def test_another_number_of_images_is_refused(make_source, proposer, write):
    with pytest.raises(DataError, match=r"hold 4 images, but the source has 5: .*--annotations"):
        run_import(make_source(5), proposer, [write([WHOLE] * 4)])


def test_boxes_outside_their_images_are_refused(make_source, proposer, write):
    source = make_source(5)
    with pytest.raises(
        DataError, match=r"2 of 5 images are smaller.*First: 001.png.*160 x 120 pixels, up to \(320, 240\)"
    ):
        run_import(source, proposer, [write([WHOLE, [0, 0, 320, 240], WHOLE, [0, 0, 320, 240], WHOLE])])
    assert proposer.store(source).searched() == 0


@pytest.mark.parametrize(
    "wrong",
    [[1, 2, 3], [[1, 2, 3, "x"]], "no", [[1, 2, 3, 4], [1]], {"a": 1}],
)
def test_malformed_boxes_are_named(make_source, proposer, write, wrong):
    with pytest.raises(DataError, match="image 1 should be a list of"):
        run_import(make_source(2), proposer, [write([WHOLE, wrong])])


def test_another_search_is_refused(make_source, tmp_path, write):
    path = write([WHOLE] * 2)
    with pytest.raises(UsageError, match='working_side = 200: write mode = "fast", working_side = "full"'):
        run_import(make_source(2), SelectiveSearch(store=tmp_path / "s", working_side=200), [path])
    with pytest.raises(UsageError, match="random-boxes"):
        run_import(make_source(2), RandomBoxes(), [path])


def test_an_image_without_boxes_gets_the_whole_image(make_source, proposer, write):
    source = make_source(2)
    run_import(source, proposer, [write([[], []])])
    assert np.array_equal(proposer.open(source)[0], [WHOLE])
