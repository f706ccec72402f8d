import gc

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
