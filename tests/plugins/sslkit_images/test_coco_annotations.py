"""COCO's annotations are checked record by record, and joined without loss."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sslkit.errors import DataError
from sslkit_images.coco_annotations import read_index


def annotations(count=4):
    return {
        "info": {"year": 2017},
        "images": [{"id": 10 + n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in range(count)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": 10 + n, "category_id": (7, 3)[n % 2], "bbox": [n, 2.5, 30, 20], "iscrowd": 0}
            for n in range(count)
        ],
    }


@pytest.fixture
def index(tmp_path):
    def of(content, listed=None):
        file, other = tmp_path / "instances.json", tmp_path / "image_info.json"
        file.write_text(json.dumps(content))
        if listed:
            other.write_text(json.dumps(listed))
        return read_index(other if listed else None, file)

    return of


def test_records_become_arrays_in_the_order_of_the_images(index):
    content = annotations()
    content["annotations"] = content["annotations"][::-1]
    read = index(content)
    assert [read.names[n] for n in range(4)] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert read.categories.tolist() == ["dog", "cat"]
    assert read.counts.tolist() == [1] * 4
    assert read.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(read.boxes[2], [2, 2.5, 32, 22.5])
    assert read.sizes.tolist() == [[48, 64]] * 4


def test_the_order_of_the_lists_in_the_file_does_not_matter(index):
    content = annotations()
    turned = dict(reversed(content.items()))
    np.testing.assert_array_equal(index(content).boxes, index(turned).boxes)


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        ({"bbox": []}, (0, 1)), ({"bbox": None}, (0, 1)), ({"bbox": [1, 1, 0, 5]}, (0, 1)), ({"bbox": [1, 1, 5, 0.0]}, (0, 1)),
        ({"bbox": [40, 30, 1e-9, 1e-9]}, (0, 1)), ({"bbox": [1, 1, 0.99, 5]}, (0, 1)), ({"bbox": [1, 1, 1, 1]}, (0, 0)),
        ({"iscrowd": 1}, (1, 0)), ({"iscrowd": True}, (1, 0)), ({"iscrowd": "1"}, (1, 0)),
        ({"iscrowd": 1, "bbox": "none"}, (1, 0)), ({"iscrowd": "0"}, (0, 0)), ({"iscrowd": None}, (0, 0)),
        ({"iscrowd": False}, (0, 0)), ({"area": None, "segmentation": "?"}, (0, 0)), ({"category_id": 3.0}, (0, 0)),
    ],
)  # fmt: skip
def test_what_is_harmless_is_counted(index, change, left_out):
    content = annotations()
    content["annotations"][1] |= change
    read = index(content)
    assert tuple(read.left_out.tolist()[:2]) == left_out
    assert len(read.boxes) + sum(left_out) == 4


def without(key):
    return lambda record: record.pop(key)


def setting(**values):
    return lambda record: record.update(values)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("images", without("id"), "images have no valid id (1): images[1] has no id"),
        ("images", setting(id=None), "images have no valid id (1): images[1] has id None"),
        ("images", setting(id=True), "images have no valid id (1): images[1] has id True"),
        ("images", setting(id=[1]), "images have no valid id (1): images[1] has id [1]"),
        ("images", setting(id=1.5), "images have no valid id (1): images[1] has id 1.5"),
        ("images", setting(id=10), "images have an id that another one has (1): images[1] has id 10 like images[0]"),
        ("images", setting(id=10.0), "images have an id that another one has (1)"),
        ("images", without("file_name"), "images have no valid file_name (1): images[1] (id 11) has no file_name"),
        ("images", setting(file_name=7), "images have no valid file_name (1): images[1] (id 11) has file_name 7"),
        ("images", setting(file_name=""), "images have no valid file_name (1)"),
        ("images", setting(file_name="../1.jpg"), "images have no valid file_name (1)"),
        ("images", setting(file_name="/etc/1.jpg"), "images have no valid file_name (1)"),
        ("images", setting(file_name="a/../0.jpg"), "images have no valid file_name (1)"),
        ("images", setting(file_name="\ud800.jpg"), r"images[1] (id 11) has file_name '\ud800.jpg'"),
        ("images", setting(file_name="a\udfff"), "images have no valid file_name (1)"),
        ("images", setting(file_name="1.jpg\0"), "images have no valid file_name (1)"),
        ("images", setting(file_name="./0.jpg"), "images have a file_name that another one has (1): images[1] (id 11)"),
        ("images", setting(file_name=".//0.jpg"), "images have a file_name that another one has (1): images[1] (id 11)"),
        ("images", setting(file_name="0.jpg/."), "images have a file_name that another one has (1): images[1] (id 11)"),
        ("images", setting(file_name="../" * 2000), "images[1] (id 11) has file_name '../../"),
        ("images", setting(file_name="0.jpg"), "images have a file_name that another one has (1): images[1] (id 11)"),
        ("images", setting(width="64"), "images have no valid width (1): images[1] (id 11) has width '64'"),
        ("images", setting(height=-1), "images have no valid height (1): images[1] (id 11) has height -1"),
        ("categories", without("id"), "categories have no valid id (1): categories[1] has no id"),
        ("categories", setting(id=7), "categories have an id that another one has (1): categories[1] has id 7"),
        ("categories", setting(name="cat"), "categories have a name that another one has (1): categories[1] (id 3)"),
        ("categories", setting(name=None), "categories have no valid name (1): categories[1] (id 3) has name None"),
        ("categories", setting(name="r\ud800"), r"categories[1] (id 3) has name 'r\ud800'"),
        ("categories", setting(name="\udcff"), "categories have no valid name (1)"),
        ("categories", setting(name="cat\0"), "categories have no valid name (1)"),
        ("categories", without("name"), "categories have no valid name (1): categories[1] (id 3) has no name"),
        ("annotations", setting(category_id=99), "category_id that is not in 'categories' (1): annotations[1] has category_id 99"),
        ("annotations", setting(category_id="3"), "annotations[1] has category_id '3', where categories has 3"),
        ("annotations", setting(category_id=None), "annotations have no valid category_id (1): annotations[1] (id 1)"),
        ("annotations", without("category_id"), "annotations[1] (id 1) has no category_id"),
        ("annotations", setting(image_id=99), "image_id that is not in 'images' (1): annotations[1] has image_id 99"),
        ("annotations", setting(image_id="11"), "annotations[1] has image_id '11', where images has 11"),
        ("annotations", setting(image_id="1" * 5000), "annotations[1] has image_id '11111111111111111111111111111111111111111111..."),
        ("annotations", setting(image_id=10**4000), "annotations[1] has image_id 100000000000000000000000000000000000000000000..."),
        ("annotations", setting(category_id="²" * 50), "annotations[1] has category_id '²²²"),
        ("annotations", setting(iscrowd=1, image_id=99), "annotations[1] has image_id 99"),
        ("annotations", setting(iscrowd="1", category_id=99), "annotations[1] has category_id 99"),
        ("annotations", setting(bbox=[], image_id=99), "annotations[1] has image_id 99"),
        ("annotations", setting(bbox=None, category_id=99), "annotations[1] has category_id 99"),
        ("annotations", setting(bbox=[1, 1, 0, 0], image_id="11"), "annotations[1] has image_id '11', where images has 11"),
        ("annotations", without("image_id"), "annotations have no valid image_id (1)"),
        ("annotations", without("bbox"), "annotations have no bbox of four numbers (1): annotations[1] (id 1) has no bbox"),
        ("annotations", setting(bbox=[1, 2, 3]), "annotations have no bbox of four numbers (1)"),
        ("annotations", setting(bbox=["1", "2", "3", "4"]), "annotations have no bbox of four numbers (1)"),
        ("annotations", setting(bbox={"x": 1}), "annotations have no bbox of four numbers (1)"),
        ("annotations", setting(bbox=[1, 2, 3, float("nan")]), "annotations have no bbox of four numbers (1)"),
        ("annotations", setting(bbox=[1, 2, True, 4]), "annotations have no bbox of four numbers (1)"),
        ("annotations", setting(bbox=[30, 20, -10, 5]), "annotations have a bbox that is no [left, top, width, height] (1)"),
        ("annotations", setting(bbox=[1, 2, 1e30, 4]), "annotations have a bbox that is no [left, top, width, height] (1)"),
        ("annotations", setting(bbox=[10**400, 2, 3, 4]), "annotations have a bbox that is no [left, top, width, height] (1)"),
        ("annotations", setting(iscrowd="yes"), "annotations have an iscrowd that is neither 0 nor 1 (1)"),
        ("annotations", setting(iscrowd=[0]), "annotations have an iscrowd that is neither 0 nor 1 (1)"),
    ],
)  # fmt: skip
def test_each_invalid_record_is_named_once_and_nothing_else(index, table, change, words):
    content = annotations()
    change(content[table][1])
    with pytest.raises(DataError) as caught:
        index(content)
    title, *lines = str(caught.value).split("\n")
    assert title.endswith("instances.json cannot be used:")
    assert len(lines) == 1, lines
    assert words in lines[0]


@pytest.mark.parametrize("record", [None, 7, "text", [1]])
@pytest.mark.parametrize("table", ["images", "categories", "annotations"])
def test_records_that_are_no_objects_are_named(index, table, record):
    content = annotations()
    content[table][2:] = [record]
    with pytest.raises(DataError, match=r"records are not objects \(1\): " + table + r"\[2\] is"):
        index(content)


def test_ten_of_each_kind_are_named_and_all_counted(index):
    content = annotations(40)
    for record in content["annotations"][:25]:
        record["bbox"] = [1]
    for record in content["annotations"][25:]:
        record["category_id"] = 5
    with pytest.raises(DataError) as caught:
        index(content)
    _, boxes, labels = str(caught.value).split("\n")
    assert boxes.count("annotations[") == labels.count("annotations[") == 10
    assert "(25): annotations[0]" in boxes
    assert boxes.endswith("and 15 more")
    assert "(15): annotations[25]" in labels
    assert labels.endswith("and 5 more")


def test_texts_are_ids_as_well(index):
    content = annotations()
    for record in content["images"] + content["categories"]:
        record["id"] = f"x{record['id']}"
    for record in content["annotations"]:
        record |= {"image_id": f"x{record['image_id']}", "category_id": f"x{record['category_id']}"}
    assert index(content).labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("categories", "not in 'categories'"), ("images", "it has no 'images', only 'info', 'categories'"),
        ("annotations", "it has no 'annotations', only 'info', 'images', 'categories'"),
    ],
)  # fmt: skip
def test_a_missing_list_is_named(index, missing, words):
    content = annotations()
    del content[missing]
    with pytest.raises(DataError, match=words):
        index(content)


@pytest.mark.parametrize("name", ["annotation", "Annotations", "objects"])
def test_a_misspelt_list_is_not_taken_for_none(index, name):
    content = annotations()
    content[name] = content.pop("annotations")
    with pytest.raises(DataError, match=f"it has no 'annotations', only 'info', 'images', 'categories', '{name}'"):
        index(content)
    assert len(index(annotations() | {"annotations": []}).boxes) == 0


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"bbox": "x", "image_id": None, "category_id": None}, ["no bbox", "no valid image_id", "no valid category_id"]),
        ({"bbox": [1], "image_id": 99, "category_id": 88}, ["no bbox", "not in 'images'", "not in 'categories'"]),
        ({"iscrowd": 2, "bbox": [1, 2, -3, 4], "image_id": []}, ["an iscrowd", "a bbox", "no valid image_id"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_an_annotation_is_told(index, change, kinds):
    content = annotations()
    content["annotations"][1] |= change
    with pytest.raises(DataError) as caught:
        index(content)
    _, *lines = str(caught.value).split("\n")
    assert len(lines) == len(kinds)
    for kind, line in zip(kinds, lines, strict=True):
        assert f"annotations have {kind}" in line or f"that is {kind}" in line


@pytest.mark.parametrize(
    ("table", "record", "kinds"),
    [
        ("categories", {"id": 7, "name": None}, ["no valid name", "an id that another one has"]),
        ("categories", {"id": None, "name": "cat"}, ["no valid id", "a name that another one has"]),
        ("images", {"id": 10, "file_name": 3, "width": "a"}, ["an id that", "no valid file_name", "no valid width"]),
        ("images", {"file_name": "0.jpg", "height": -1}, ["no valid id", "a file_name that", "no valid height"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_an_image_or_a_category_is_told(index, table, record, kinds):
    content = annotations()
    content[table].append(record)
    with pytest.raises(DataError) as caught:
        index(content)
    _, *lines = str(caught.value).split("\n")
    assert len(lines) == len(kinds)
    assert all(any(f"{table} have {kind}" in line for line in lines) for kind in kinds)


def test_a_file_name_is_kept_in_its_plain_spelling(index):
    content = annotations()
    for image, name in zip(content["images"], ["./0.jpg", "a//1.jpg", "a/./2.jpg", "3.jpg/"], strict=True):
        image["file_name"] = name
    read = index(content)
    assert [read.names[n] for n in range(4)] == ["0.jpg", "a/1.jpg", "a/2.jpg", "3.jpg"]


def test_annotations_of_images_that_another_file_does_not_list_are_counted(index):
    content = annotations()
    listed = {"images": content["images"][:3]}
    for turned in (content, dict(reversed(content.items()))):
        read = index(turned, listed)
        assert (len(read.boxes), read.left_out.tolist()) == (3, [0, 0, 1])
    content["annotations"][0]["image_id"] = 99
    with pytest.raises(DataError, match=r"image_info\.json and .*instances\.json cannot be used:\n.* image_id 99"):
        index(content, listed)
