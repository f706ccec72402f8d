import io
import json
import os
import pickle
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslkit.errors import DataError, SslkitWarning
from sslkit.folders import cache_dir
from sslkit_images.coco import Coco
from sslkit_images.folder import Folder


def write_image(path, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "JPEG")
    path.write_bytes(file.getvalue())


def test_a_folder_lists_images_in_the_order_of_their_paths(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a/ü 3.jpeg", ".hidden/4.jpg", "a/.5.jpg", "a/notes.txt"):
        write_image(tmp_path / name)
    source = Folder(root=tmp_path)
    source.open()
    assert [source.key(i) for i in range(len(source))] == ["a/ü 3.jpeg", "b/1.png", "b/2.JPG"]
    assert source.read(0)[:2] == b"\xff\xd8"
    again = pickle.loads(pickle.dumps(source))
    assert again.key(2) == "b/2.JPG"


@contextmanager
def unprivileged():
    """Drop superuser rights for a moment: a superuser may read everything."""
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_image_without_read_permission_is_reported(tmp_path):
    write_image(tmp_path / "1.jpg")
    source = Folder(root=tmp_path)
    source.open()
    (tmp_path / "1.jpg").chmod(0)
    with unprivileged(), pytest.raises(DataError, match=r"1\.jpg cannot be read: Permission denied"):
        source.read(0)


def test_a_folder_without_read_permission_is_not_left_out_in_silence():
    with tempfile.TemporaryDirectory() as open_to_all:
        root = Path(open_to_all)
        root.chmod(0o755)
        for name in ("a/1.jpg", "b/2.jpg"):
            write_image(root / name)
        (root / "b").chmod(0)
        with unprivileged(), pytest.raises(DataError, match=r"/b cannot be read: Permission denied"):
            Folder(root=root).open()


@pytest.mark.parametrize(
    "suffixes", [[".JPG"], ["jpg"], ["*.jpg"], ["*.JPG"], ["Jpg", ".png"], [".jpeg", ".jPg"]], ids=" ".join
)
def test_suffixes_are_those_that_people_write(tmp_path, suffixes):
    for name in ("a.jpg", "b.JPG", "c.Jpg", "d.jpg.txt", "ejpg", "f.gif"):
        write_image(tmp_path / name)
    source = Folder(root=tmp_path, suffixes=tuple(suffixes))
    source.open()
    assert [source.key(index) for index in range(len(source))] == ["a.jpg", "b.JPG", "c.Jpg"]


@pytest.mark.parametrize("name", ["a" * 300, "a/" + "b" * 256 + "/c"])
def test_a_folder_with_an_impossible_name_is_not_found(tmp_path, name):
    assert f"folder not found: {tmp_path / name}" in Folder(root=tmp_path / name).missing()


def test_first_folders_become_labels(tmp_path):
    for name in ("train/dog/1.jpg", "train/cat/1.jpg", "train/cat/2.jpg"):
        write_image(tmp_path / name)
    source = Folder(root=tmp_path, split="train", labels=True)
    source.open()
    assert source.categories == ("cat", "dog")
    assert [source.label(i) for i in range(3)] == [0, 0, 1]
    write_image(tmp_path / "train" / "loose.jpg")
    with pytest.raises(DataError, match="1 images are directly in"):
        source.open()


def test_errors_for_missing_and_empty_folders_say_what_is_there(tmp_path):
    (tmp_path / "images").mkdir()
    assert "has no 'imags': did you mean 'images'?" in Folder(root=tmp_path / "imags").missing()
    (tmp_path / "images" / "a.heic").touch()
    with pytest.raises(DataError, match=r"no images found in .*found files ending in \.heic"):
        Folder(root=tmp_path / "images").open()
    assert "is a file" in Folder(root=tmp_path / "images" / "a.heic").missing()


def test_special_files_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    source = Folder(root=tmp_path)
    source.open()
    for index in range(2):
        with pytest.raises(DataError, match=f"{source.key(index)} cannot be read: it is not a regular file"):
            source.read(index)


@pytest.fixture
def coco(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKIT_CACHE", str(tmp_path / "cache"))
    for name in ("3.jpg", "1.jpg", "2.jpg"):
        write_image(tmp_path / "train2017" / name)
    annotations = {
        "images": [
            {"id": 30, "file_name": "3.jpg"},
            {"id": 10, "file_name": "1.jpg"},
            {"id": 20, "file_name": "2.jpg"},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"image_id": 10, "bbox": [1, 2, 3, 4], "category_id": 18, "iscrowd": 0},
            {"image_id": 10, "bbox": [0, 0, 5, 5], "category_id": 17, "iscrowd": 1},
            {"image_id": 20, "bbox": [0, 0, 0, 5], "category_id": 17, "iscrowd": 0},
            {"image_id": 30, "bbox": [2, 2, 2, 2], "category_id": 17, "iscrowd": 0},
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(annotations))
    return tmp_path


def opened(root, **options):
    source = Coco(root=root, **options)
    source.open()
    return source


def test_coco_keeps_the_annotations_order_and_converts_boxes(coco):
    for source in (opened(coco), opened(coco)):  # the second from the cache
        assert [source.key(i) for i in range(3)] == ["train2017/3.jpg", "train2017/1.jpg", "train2017/2.jpg"]
        assert tuple(source.categories) == ("cat", "dog")
        np.testing.assert_array_equal(source.objects(1).boxes, [[1, 2, 4, 6]])
        assert source.objects(1).labels.tolist() == [1]
        assert source.objects(2).boxes.shape == (0, 4)


def test_image_info_decides_the_list_and_instances_the_boxes(coco):
    write_image(coco / "train2017" / "4.jpg")
    images = [{"id": 40, "file_name": "4.jpg"}, {"id": 30, "file_name": "3.jpg"}]
    (coco / "annotations" / "image_info_train2017.json").write_text(json.dumps({"images": images}))
    source = opened(coco)
    assert [source.key(i) for i in range(len(source))] == ["train2017/4.jpg", "train2017/3.jpg"]
    assert source.objects(0).boxes.shape == (0, 4)
    assert source.objects(1).labels.tolist() == [0]


def test_coco_plus_joins_both_lists(coco):
    write_image(coco / "unlabeled2017" / "9.jpg")
    source = opened(coco, split="train2017+unlabeled2017")
    assert [source.key(i) for i in range(4)][-1] == "unlabeled2017/9.jpg"
    assert source.objects(0).labels.tolist() == [0]


@pytest.mark.parametrize(
    ("others", "categories", "labels"),
    [
        ({"cat": 18, "dog": 17}, ("cat", "dog"), [1, 0]),
        ({"cat": 1, "dog": 2}, ("cat", "dog"), [0, 1]),
        ({"dog": 5, "cow": 6}, ("cat", "dog", "cow"), [1, 2]),
        ({"x": 17, "y": 18, "cat": 1}, ("cat", "dog", "x", "y"), [0, 2, 3]),
    ],
)
def test_categories_of_two_splits_are_joined_by_name(coco, others, categories, labels):
    write_image(coco / "unlabeled2017" / "9.jpg")
    content = {
        "images": [{"id": 1, "file_name": "9.jpg"}],
        "categories": [{"id": id_, "name": name} for name, id_ in others.items()],
        "annotations": [{"image_id": 1, "bbox": [1, 1, 3, 3], "category_id": id_} for id_ in sorted(others.values())],
    }
    (coco / "annotations" / "instances_unlabeled2017.json").write_text(json.dumps(content))
    source = opened(coco, split="train2017+unlabeled2017")
    assert source.categories == categories
    assert [source.objects(index).labels.tolist() for index in range(4)] == [[0], [1], [], labels]


@pytest.mark.parametrize("name", ["instances_train2017.json", "image_info_train2017.json"])
@pytest.mark.parametrize(
    ("target", "reason"),
    [("gone.json", "No such file"), ("{name}", "Too many levels"), ("../train2017/3.jpg/x", "Not a directory")],
)
def test_a_link_that_leads_nowhere_is_no_missing_file(coco, name, target, reason):
    file = coco / "annotations" / name
    file.unlink(missing_ok=True)
    file.symlink_to(target.format(name=name))
    with pytest.raises(DataError, match=rf"{name} is a link to .*, which cannot be read: {reason}"):
        opened(coco)


def test_a_folder_of_annotations_that_is_none_is_refused(coco):
    (coco / "annotations").rename(coco / "other")
    assert opened(coco).categories == ()
    (coco / "annotations").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"annotations is a link to nowhere, which cannot be read: No such file"):
        opened(coco)
    (coco / "annotations").unlink()
    (coco / "annotations").write_text("")
    with pytest.raises(DataError, match=r"annotations/image_info_train2017\.json cannot be read: Not a directory"):
        opened(coco)


def test_listed_images_that_are_missing_are_named(coco):
    (coco / "train2017" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images .* are missing: train2017/2\.jpg"):
        opened(coco)


def test_ten_missing_images_are_named_and_the_others_counted(coco):
    listed = {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(19)] + [{"id": 99, "file_name": "a" * 5000}]}
    (coco / "annotations" / "image_info_train2017.json").write_text(json.dumps(listed))
    (coco / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(DataError, match=r"17 of 20 images .*: train2017/0\.jpg, .*, train2017/12\.jpg and 7 more$"):
        opened(coco)
    listed["images"] = listed["images"][-1:]
    (coco / "annotations" / "image_info_train2017.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"missing: train2017/a{180,190}\.\.\.$"):
        opened(coco)


def test_only_missing_splits_get_a_download_command(coco):
    missing = Coco(root=coco, split="train2017+unlabeled2017").missing()
    assert "unlabeled2017.zip" in missing
    assert "train2017.zip" not in missing


def test_file_names_may_lie_in_subfolders(coco):
    file = coco / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text().replace('"1.jpg"', '"deep/1.jpg"'))
    with pytest.raises(DataError, match=r"1 of 3 images .* are missing: train2017/deep/1\.jpg"):
        opened(coco)
    (coco / "train2017" / "deep").mkdir()
    (coco / "train2017" / "1.jpg").rename(coco / "train2017" / "deep" / "1.jpg")
    source = opened(coco)
    assert source.key(1) == "train2017/deep/1.jpg"
    assert len(source.read(1)) > 0


def test_a_damaged_cache_is_made_again(coco):
    opened(coco)
    [index] = (cache_dir() / "coco").iterdir()
    for damage in (b"", index.read_bytes()[:200], b"not an index" * 50):
        index.write_bytes(damage)
        with pytest.warns(SslkitWarning, match="is made again: .* is damaged"):
            assert opened(coco).objects(1).labels.tolist() == [1]


def test_what_is_left_out_is_counted(coco):
    left_out = opened(coco).left_out()
    assert {what: count for what, count in left_out.items() if count} == {
        "crowds": 1,
        "annotations without a box of at least a pixel": 1,
    }
