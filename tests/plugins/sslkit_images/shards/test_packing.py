import gc
import json

import numpy as np
import pytest
import webdataset

from sslkit.api import no_progress
from sslkit.errors import DataError, UsageError
from sslkit.images import decode
from sslkit_images.coco import Coco
from sslkit_images.folder import Folder
from sslkit_images.shards.packing import member_name, pack

from .conftest import opened, write_tar

SMALL = 12_000
"""Bytes of a tar with few images in it."""


UNCLOSED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
"""webdataset leaves files open."""


def samples_of(tars, pattern, decode=()):
    """Return what webdataset reads."""
    samples = list(webdataset.WebDataset(f"{tars}/{pattern}", shardshuffle=False).decode(*decode))
    gc.collect()
    return samples


def folder(root, **options):
    source = Folder(root=root, **options)
    source.open()
    return source


def test_a_packed_folder_reads_the_same(image_folder, tmp_path):
    plain = folder(image_folder, labels=True)
    done = pack(plain, tmp_path / "tars", SMALL, no_progress)
    assert len(list((tmp_path / "tars").iterdir())) > 2
    assert (done.images, done.labels) == (7, True)
    again = opened(tmp_path / "tars", pattern=done.pattern, labels="cls")
    assert again.categories == ("a", "b")
    for index in range(len(plain)):
        key = plain.key(index)
        assert (again.key(index), again.label(index)) == (key, plain.label(index))
        assert again.read(index) == plain.read(index)
        np.testing.assert_array_equal(decode(again.read(index), key), decode(plain.read(index), key))


def test_coco_keeps_its_boxes(coco, tmp_path):
    plain = Coco(root=coco)
    plain.open()
    done = pack(plain, tmp_path / "tars", SMALL, no_progress)
    again = opened(tmp_path / "tars", pattern=done.pattern)
    assert again.categories == ("cat", "potted plant")
    assert not done.labels
    for index in range(3):
        assert again.key(index) == plain.key(index)
        np.testing.assert_array_equal(again.objects(index).boxes, plain.objects(index).boxes)
        np.testing.assert_array_equal(again.objects(index).labels, plain.objects(index).labels)
        assert again.objects(index).difficult is None


@UNCLOSED
def test_webdataset_reads_what_is_packed(image_folder, tmp_path):
    plain = folder(image_folder, labels=True)
    done = pack(plain, tmp_path / "tars", SMALL, no_progress)
    read = samples_of(tmp_path / "tars", done.pattern)
    assert len(read) == len(plain)
    assert len({sample["__key__"] for sample in read}) == len(plain)
    for index, sample in enumerate(read):
        image = [data for key, data in sample.items() if not key.startswith("__") and key != "cls"]
        assert image == [plain.read(index)]
        assert sample["cls"] == plain.label(index)
    decoded = samples_of(tmp_path / "tars", done.pattern, ["rgb8"])
    np.testing.assert_array_equal(decoded[0]["jpg"], decode(plain.read(0), "0"))


@UNCLOSED
def test_webdataset_reads_objects(coco, tmp_path):
    plain = Coco(root=coco)
    plain.open()
    done = pack(plain, tmp_path / "tars", SMALL, no_progress)
    read = samples_of(tmp_path / "tars", done.pattern)
    assert read[0]["objects.json"] == {
        "boxes": [[1, 1.5, 5, 6.5], [0.25, 0, 2.25, 2.125]],
        "labels": [0, 1],
    }
    assert "objects.json" not in read[1]


def test_packing_resumes_and_ends_with_the_same_bytes(image_folder, tmp_path):
    plain = folder(image_folder)
    for name in ("once", "twice"):
        pack(plain, tmp_path / name, 3_000, no_progress)
    tars = sorted(path.name for path in (tmp_path / "once").iterdir())
    for name in tars[1:]:
        (tmp_path / "twice" / name).unlink()
    inode = (tmp_path / "twice" / tars[0]).stat().st_ino
    pack(plain, tmp_path / "twice", 3_000, no_progress)
    assert (tmp_path / "twice" / tars[0]).stat().st_ino == inode
    for name in tars:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_a_folder_with_other_tars_is_refused(image_folder, tmp_path):
    plain = folder(image_folder)
    other = write_tar(tmp_path / "tars/shard-000000.tar", {"x.jpg": b"y"})
    before = other.read_bytes()
    with pytest.raises(DataError, match=r"shard-000000\.tar does not match the images to pack: write --out ANOTHER"):
        pack(plain, tmp_path / "tars", SMALL, no_progress)
    assert other.read_bytes() == before
    other.rename(other.with_name("shard-000003.tar"))
    with pytest.raises(DataError, match=r"holds shard-000003\.tar but not shard-000000\.tar"):
        pack(plain, tmp_path / "tars", SMALL, no_progress)


def correct_box(about):
    about["annotations"][2]["bbox"] = [2, 2, 3, 3]


def correct_label(about):
    about["annotations"][0]["category_id"] = 7


def drop_objects(about):
    del about["annotations"][:2]


def drop_an_image(about):
    del about["images"][2], about["annotations"][2]


def rename_a_category(about):
    about["categories"][1]["name"] = "flower pot"


def swap_categories(about):
    for category in about["categories"]:
        category["name"] = {"cat": "potted plant", "potted plant": "cat"}[category["name"]]


@pytest.mark.parametrize(
    ("correct", "words"),
    [
        (correct_box, r"000002\.tar does not match .* \(it differs near train2017/000000000002\.jpg\)"),
        (correct_label, r"000000\.tar does not match .* \(it differs near train2017/000000000000\.jpg\)"),
        (drop_objects, r"000000\.tar does not match .* \(it differs near train2017/000000000001\.jpg\)"),
        (drop_an_image, r"000002\.tar does not match .* \(it differs after the last image\)"),
        (rename_a_category, r"categories\.txt has other names"),
        (swap_categories, r"categories\.txt has other names"),
    ],
)
def test_tars_of_annotations_that_were_corrected_since_are_refused(coco, tmp_path, correct, words):
    def plain():
        source = Coco(root=coco)
        source.open()
        return source

    pack(plain(), tmp_path / "tars", 800, no_progress)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tars").iterdir()}
    file = coco / "annotations/instances_train2017.json"
    about = json.loads(file.read_text())
    correct(about)
    file.write_text(json.dumps(about) + "\n")
    with pytest.raises(DataError, match=words) as error:
        pack(plain(), tmp_path / "tars", 800, no_progress)
    assert "write --out ANOTHER-FOLDER, or remove what was packed before" in str(error.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "tars").iterdir()} == before
    assert pack(plain(), tmp_path / "again", SMALL, no_progress).images == len(plain())


@pytest.mark.parametrize("place", range(7))
def test_tars_of_an_image_that_was_corrected_since_are_refused(image_folder, tmp_path, place):
    plain = folder(image_folder)
    pack(plain, tmp_path / "tars", SMALL, no_progress)
    path = image_folder / plain.key(place)
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(DataError, match="does not match the images to pack") as error:
        pack(plain, tmp_path / "tars", SMALL, no_progress)
    assert f"(it differs near {plain.key(place)})" in str(error.value)


def test_images_that_were_added_at_the_end_are_packed_behind_the_others(image_folder, tmp_path):
    pack(folder(image_folder), tmp_path / "tars", SMALL, no_progress)
    (image_folder / "z.jpg").write_bytes((image_folder / "a/1.jpg").read_bytes())
    assert pack(folder(image_folder), tmp_path / "tars", SMALL, no_progress).images == 8
    assert len(opened(tmp_path / "tars")) == 8


class Named(Folder):
    """A source whose categories or keys are given."""

    def __init__(self, root, names=(), key="{}"):
        super().__init__(root=root)
        self.open()
        self.categories = names
        self.name_of = key

    def key(self, index):
        return super().key(index) if self.name_of == "{}" else self.name_of.format(index)

    def read(self, index):
        return b"\x89PNG"

    def label(self, index):
        return 0


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["c", "a\rb"], r"names have a line break in them \(1\): category 1 is 'a\\rb'"),
        (["a\u2028b"], "names have a line break in them"),
        (["a\x85b", "c\n", "d\x0b"], r"names have a line break in them \(3\)"),
        (["a", "", " \t"], r"names are blank \(2\): category 1 is '', category 2 is"),
        (["a", "b", "a"], r"names occur twice \(1\): category 2 is 'a' like category 0"),
        (["r\ud800"], r"names are not valid text \(1\): category 0 is 'r\\ud800'"),
        (["a", "caf\udce9"], r"names are not valid text \(1\): category 1"),
        (["\ufeffa"], "names are not valid text"),
        (["x" * 5000 + "\r", ""], r"category 0 is 'x{44}\.\.\.\n    names are blank"),
    ],
)
def test_categories_that_are_no_lines_of_their_own_are_refused(image_folder, tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        pack(Named(image_folder, names), tmp_path / "tars", SMALL, no_progress)
    assert list((tmp_path / "tars").iterdir()) == []


@pytest.mark.parametrize("names", [["größer", "a b", " c"], ["a\tb", "'", '"'], ["日本", "a.b", "0"]])
def test_other_categories_are_read_as_they_were_packed(image_folder, tmp_path, names):
    pack(Named(image_folder, [*names, "last"]), tmp_path / "tars", SMALL, no_progress)
    assert list(opened(tmp_path / "tars", labels="cls").categories) == [*names, "last"]


@pytest.mark.parametrize("key", ["\ud800{}.png", "a/{}\udbff.png", "{}\udfff"])
def test_keys_that_are_no_text_are_refused(image_folder, tmp_path, key):
    with pytest.raises(DataError, match="an image cannot be packed: its name is not valid text, '"):
        pack(Named(image_folder, key=key), tmp_path / "tars", SMALL, no_progress)


def test_what_is_left_out_is_counted_once_resumed_or_not(coco, tmp_path):
    file = coco / "annotations/instances_train2017.json"
    about = json.loads(file.read_text())
    about["annotations"][0]["iscrowd"] = 1
    about["annotations"][1]["bbox"] = [50, 50, 5, 5]
    file.write_text(json.dumps(about))
    for size in (10**9, 10**9, SMALL):
        source = Coco(root=coco)
        source.open()
        done = pack(source, tmp_path / "tars", size, no_progress)
        assert dict(done.left_out) == {"crowds": 1, "objects outside their image": 1}


def test_an_unreadable_image_leaves_no_partial_tar(image_folder, tmp_path):
    plain = folder(image_folder)
    (image_folder / "b/2.webp").unlink()
    with pytest.raises(DataError, match=r"2\.webp cannot be read"):
        pack(plain, tmp_path / "tars", 10**9, no_progress)
    assert list((tmp_path / "tars").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is not a folder; choose another folder with --out"):
        pack(plain, tmp_path / "file/tars", 10**9, no_progress)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("a/1.JPG", "a/1.JPG"),
        ("a/used.jpg", "a/used_.jpg"),
        ("a/v1.2.png", "a/v1_2.png"),
        ("a.b/1.jpg", "a.b/1.jpg"),
        ("__meta__/1.jpg", "meta__/1.jpg"),
        ("./1.jpg", "1.jpg"),
        ("a/1", "a/1.png"),
        (".jpg", "_.jpg"),
    ],
)
def test_names_that_webdataset_would_misread_are_changed(key, name):
    assert member_name(key, b"\x89PNG", {"a/used"}) == name
