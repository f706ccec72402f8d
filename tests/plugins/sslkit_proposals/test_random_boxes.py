import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask

from sslkit.api import no_progress
from sslkit_images.folder import Folder
from sslkit_proposals.random_boxes import BoxConstraints, RandomBoxes, draw


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 100), st.sampled_from([1, 8, 64, 96]))
@settings(max_examples=100, deadline=None)
def test_boxes_obey_the_constraints(height, width, seed, min_side):
    rules = BoxConstraints(20, min_side, 3.0, 0.5, 0)
    boxes = draw(height, width, rules, np.random.default_rng(seed))
    assert 1 <= len(boxes) <= 20
    size = boxes[:, 2:] - boxes[:, :2]
    least = min_side if min(height, width) >= min_side else max(1, min(height, width) // 2)
    assert size.min() >= least
    assert (size.max(axis=1) <= 3 * size.min(axis=1)).all()
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [width, height]).all()
    xywh = np.concatenate([boxes[:, :2], size], axis=1).astype(float)
    overlap = mask.iou(xywh, xywh, [0] * len(boxes)) - np.eye(len(boxes))
    assert overlap.max() <= 0.5


def test_an_ordinary_image_gets_the_requested_number():
    boxes = draw(480, 640, BoxConstraints(20, 64, 3.0, 0.5, 0), np.random.default_rng(0))
    assert len(boxes) == 20
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centres.std(axis=0) > [60, 45]).all()


def test_boxes_depend_on_key_and_seed_alone(make_source):
    source = make_source(3)
    proposer = RandomBoxes(min_side=24)
    assert proposer.missing(source) is None
    proposer.build(source, no_progress, 2)
    proposals = proposer.open(source)
    again = pickle.loads(pickle.dumps(proposals))
    assert len(again) == 3
    assert [again[index].tolist() for index in (2, 0, 1)] == [proposals[index].tolist() for index in (2, 0, 1)]
    source.files.reverse()
    assert proposer.open(source)[0].tolist() == again[2].tolist()
    assert proposals[0].dtype == np.float32
    assert proposals[0].tolist() != proposals[1].tolist()
    assert RandomBoxes(min_side=24, seed=1).open(source)[0].tolist() != proposals[0].tolist()


@pytest.mark.parametrize("fault", ["gone", "garbage"])
def test_an_unreadable_image_has_none(make_source, fault):
    source = make_source(1)
    source.files[0].unlink() if fault == "gone" else source.files[0].write_bytes(b"not an image")
    assert RandomBoxes().open(source)[0].shape == (0, 4)


def test_an_image_with_an_undecodable_name_has_boxes(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / os.fsdecode(b"odd \xff.png"))
    source = Folder(root=tmp_path)
    source.open()
    assert len(RandomBoxes(min_side=8).open(source)[0])
