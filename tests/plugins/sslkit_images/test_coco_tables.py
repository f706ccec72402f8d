"""Two files that list the same images: their records agree, and fill each other's gaps."""

from __future__ import annotations

import json

import pytest

from sslkit.errors import DataError
from sslkit_images.coco_annotations import read_index


def images(*records):
    return [{"id": key, "file_name": name, "width": width, "height": height} for key, name, width, height in records]


SAME = (1, "0.png", 64, 48), (2, "1.png", 64, 48)


@pytest.fixture
def index(tmp_path):
    def of(listed, annotated, owners=(1, 2)):
        info, instances = tmp_path / "image_info_val2017.json", tmp_path / "instances_val2017.json"
        info.write_text(json.dumps({"images": images(*listed)}))
        content = {
            "images": images(*annotated),
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"image_id": owner, "category_id": 1, "bbox": [4, 6, 20, 20]} for owner in owners],
        }
        instances.write_text(json.dumps(content))
        return read_index(info, instances)

    return of


def test_lists_that_agree_are_joined(index):
    assert index(SAME, SAME[::-1]).counts.tolist() == [1, 1]
    assert index(SAME, ((1.0, "./0.png", 64, 48), (2, "1.png", 0, None))).counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("listed", "annotated", "words"),
    [
        (((1, "1.png", 64, 48), (2, "0.png", 64, 48)), SAME, "images[0] has file_name '0.png' where {}images[0] has '1.png'"),
        (((1, "a/0.png", 64, 48),), SAME, "images[0] has file_name '0.png' where {}images[0] has 'a/0.png'"),
        (((2, "2.png", 64, 48),), SAME, "images[1] has file_name '1.png' where {}images[0] has '2.png'"),
        ((("1", "0.png", 64, 48), ("2", "1.png", 64, 48)), SAME, "images[0] has id 1 for '0.png' where {}images[0] has '1'"),
        (((7, "0.png", 64, 48), (2, "1.png", 64, 48)), SAME, "images[0] has id 1 for '0.png' where {}images[0] has 7"),
        (SAME, ((1, "0.png", 64, 48), ("2", "1.png", 64, 48)), "images[1] has id '2' for '1.png' where {}images[1] has 2"),
        (((1, "0.png", 48, 64),), SAME, "images[0] has 64 x 48 pixels where {}images[0] has 48 x 64"),
        (((1, "0.png", 640, 0),), SAME, "images[0] has 64 x 48 pixels where {}images[0] has 640 x 0"),
    ],
)  # fmt: skip
def test_what_two_files_say_differently_is_refused(index, listed, annotated, words):
    with pytest.raises(DataError) as caught:
        index(listed, annotated)
    title, *lines = str(caught.value).split("\n")
    assert "image_info_val2017.json and " in title
    assert title.endswith("instances_val2017.json cannot be used:")
    assert len(lines) == 1, lines
    assert "images are not the same in both files" in lines[0]
    assert f"instances_val2017.json: {words.format('image_info_val2017.json: ')}" in lines[0]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ((1, "1.png", 64, 48), "images have an id that another one has (1): instances_val2017.json: images[2] has id 1 like"),
        ((3, "0.png", 64, 48), "images have a file_name that another one has (1): instances_val2017.json: images[2] (id 3)"),
        ((None, "3.png", 64, 48), "images have no valid id (1): instances_val2017.json: images[2] has id None"),
        ((3, None, 64, 48), "images have no valid file_name (1): instances_val2017.json: images[2] (id 3)"),
        ((3, "3.png", -1, 48), "images have no valid width (1): instances_val2017.json: images[2] (id 3) has width -1"),
    ],
)  # fmt: skip
def test_images_beside_the_file_that_lists_them_are_checked(index, record, words):
    with pytest.raises(DataError) as caught:
        index(SAME, (*SAME, record))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "owners", "words"),
    [
        ((("1", "a.png", 64, 48), (2, "1.png", 64, 48)), (1, 2), "annotations[0] has image_id 1, where images has '1'"),
        (((8, "8.png", 64, 48), (9, "9.png", 64, 48)), (1, 2), "none of the 2 annotations is of an image that image_info_val2017.json lists: the first has image_id 1"),
        (((8, "0.jpg", 64, 48),), (2,), "none of the 1 annotations is of an image that image_info_val2017.json lists"),
    ],
)  # fmt: skip
def test_annotations_are_not_lost_for_their_ids(index, listed, owners, words):
    with pytest.raises(DataError) as caught:
        index(listed, SAME, owners)
    assert words in str(caught.value)


def test_a_size_that_only_one_file_has_is_used(index):
    nothing = ((1, "0.png", None, None), (2, "1.png", 0, 0))
    assert index(nothing, SAME).sizes.tolist() == [[48, 64]] * 2
    assert index(SAME, nothing).sizes.tolist() == [[48, 64]] * 2
    assert index(((1, "0.png", 64, 0), (2, "1.png", 0, 48)), SAME).sizes.tolist() == [[48, 64]] * 2
