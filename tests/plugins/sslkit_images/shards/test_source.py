import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import webdataset

from sslkit.errors import DataError
from sslkit.images import decode
from sslkit.testing import check_source
from sslkit_images.shards.source import Shards

from .conftest import opened, picture, write_tar

COUNT = 10


@pytest.fixture
def written(tmp_path):
    """Write ten samples to three tars with webdataset's writer: image, label, and JSON with both."""
    (tmp_path / "wds").mkdir()
    with webdataset.ShardWriter(f"{tmp_path}/wds/x-%03d.tar", maxcount=4, verbose=0) as writer:
        for number in range(COUNT):
            about = {"boxes": [[1, 2, 5, 6 + number / 8]], "labels": [number % 2], "difficult": [number == 3]}
            writer.write(
                {
                    "__key__": f"d/{number:04d}",
                    "jpg": picture(number),
                    "cls": number % 3,
                    "json": {"info": {"class": number}},
                    "objects.json": about,
                }
            )
    return tmp_path / "wds"


def test_tars_written_by_webdataset_are_read(written):
    source = opened(written, pattern="x-{000..002}.tar", labels="cls")
    assert [source.key(index) for index in range(len(source))] == [f"d/{n:04d}.jpg" for n in range(COUNT)]
    assert [source.label(index) for index in range(COUNT)] == [n % 3 for n in range(COUNT)]
    assert source.categories == ("0", "1", "2")
    for number in (0, 3, 4, 9):
        assert source.read(number) == picture(number)
        np.testing.assert_array_equal(decode(source.read(number), "x"), decode(picture(number), "x"))
        objects = source.objects(number)
        np.testing.assert_array_equal(objects.boxes, np.array([[1, 2, 5, 6 + number / 8]], np.float32))
        assert (objects.labels.tolist(), objects.difficult.tolist()) == ([number % 2], [number == 3])


def test_labels_are_found_inside_json_and_named(written, tmp_path):
    source = opened(written, labels="json.info.class")
    assert [source.label(index) for index in range(COUNT)] == list(range(COUNT))
    (tmp_path / "names").write_text("".join(f"name {number}\n" for number in range(COUNT)))
    assert opened(written, labels="json.info.class", categories=tmp_path / "names").categories[9] == "name 9"
    (written / "categories.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"categories\.txt lists 2 categories, but the highest label is 9"):
        opened(written, labels="json.info.class")
    with pytest.raises(
        DataError, match=r'labels = "json.class", but 10 of 10 images have no label: d/0000.jpg.*json holds'
    ):
        opened(written, labels="json.class")
    assert opened(written).label(0) is None
    assert Shards(root=written, labels="txt").missing() == 'labels = "txt" is neither "cls" nor "json.KEY"'
    assert "the categories file was not found" in str(Shards(root=written, categories=tmp_path / "no").missing())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_names_of_categories_are_read_by_their_byte_order_mark(written, encoding):
    names = [f"größer {number}" for number in range(10)]
    (written / "categories.txt").write_bytes("\r\n".join(names).encode(encoding))
    if encoding == "latin-1":
        with pytest.raises(DataError, match=r"categories\.txt cannot be read: line 1 is not UTF-8 text"):
            opened(written)
    else:
        assert list(opened(written).categories) == names


def test_conforms_to_the_source_contract(written):
    check_source(Shards, root=written, labels="cls")


def _contents(source, results):
    results.put([hash_of(source.read(index)) for index in range(len(source))])


def hash_of(data):
    return data[-40:]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_at_once(written, method, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[4])  # a spawned process finds `_contents` by name
    source = opened(written)
    expected = [hash_of(source.read(index)) for index in range(COUNT)]  # the tars are open when processes are forked
    if method == "spawn":
        again = pickle.loads(pickle.dumps(source))  # what is sent holds no open files
        assert [hash_of(again.read(index)) for index in range(COUNT)] == expected
    context = multiprocessing.get_context(method)
    results = context.Queue()
    processes = [context.Process(target=_contents, args=(source, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [expected] * 2
    for process in processes:
        process.join()


def test_images_without_labels_and_other_members_between_them(tmp_path):
    members = {
        "./a.txt": b"?", "./a.jpg": b"1", "__meta__/1.jpg": b"0", "__index__": b"0", "./b/c.cls": b"1", "b/.hid.jpg": b"0", "README": b"0",
        "./b/c.PNG": b"2",
    }  # fmt: skip
    write_tar(tmp_path / "t/1.tar", members)
    source = opened(tmp_path / "t")
    assert [source.key(index) for index in range(len(source))] == ["a.jpg", "b/c.PNG"]
    with pytest.raises(DataError, match=r'labels = "cls", but 1 of 2 images have no label: a\.jpg$'):
        opened(tmp_path / "t", labels="cls")


def test_names_that_two_tars_share_begin_with_their_tars(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"t/d/{number}.tar", {"a.jpg": bytes([number]), "b.jpg": b""})
    source = opened(tmp_path / "t", pattern="d/*.tar")
    assert [source.key(index) for index in range(4)] == [f"d/{n}.tar/{name}.jpg" for n in (0, 1) for name in "ab"]
    assert source.read(2) == b"\1"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.jpg": b"", "a.png": b""}, r"1\.tar holds two images with the same key: a \(a.jpg, a.png\)"),
        ({"../a.jpg": b""}, r"1\.tar holds names that point outside the tar: \.\./a\.jpg"),
        (
            {"v1.2.jpg": b""},
            r"more than one dot: v1\.2\.jpg; add everything from the first dot on to suffixes, or pack",
        ),
        ({"a.jpg": b"", "a.objects.json": b"{"}, r"objects that cannot be read: a\.objects\.json \("),
        ({"a.txt": b""}, r"no images found in .*1\.tar; looked for .*\.jpg"),
    ],
)
def test_unusable_tars_are_reported(tmp_path, members, words):
    write_tar(tmp_path / "t/1.tar", members)
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "t")


def test_suffixes_may_contain_dots(tmp_path):
    write_tar(tmp_path / "t/1.tar", {"a.seg.png": b"1", "a.left.png": b"2"})
    source = opened(tmp_path / "t", suffixes=("left.png",))
    assert (source.key(0), source.read(0)) == ("a.left.png", b"2")


def test_all_problems_are_reported_at_once(written):
    (written / "x-000.tar").write_bytes((written / "x-000.tar").read_bytes()[:1000])
    (written / "x-001.tar").write_bytes(b"")
    with pytest.raises(DataError) as error:
        opened(written)
    assert f"{written}: tars that cannot be used\n    {written}/x-000.tar is truncated: " in str(error.value)
    assert str(error.value).endswith(f"\n    {written}/x-001.tar is empty")
    (written / "x-002.tar").unlink()
    with pytest.raises(DataError, match=r"1 of 3 tars are missing: .*x-002\.tar; .* holds x-000\.tar, x-001\.tar"):
        Shards(root=written, pattern="x-{000..002}.tar").open()


def test_a_tar_that_changes_while_in_use_is_reported(written):
    source = opened(written)
    os.truncate(written / "x-001.tar", 5000)
    with pytest.raises(DataError, match=r"x-001\.tar changed since it was indexed: it had \d+ bytes and now has 5000"):
        source.read(4)
    os.utime(written / "x-002.tar", ns=(1, 1))
    with pytest.raises(DataError, match="rewritten with the same size"):
        source.read(9)
    source.read(0)
    os.truncate(written / "x-000.tar", 100)  # while this process has it open
    with pytest.raises(DataError, match=r"x-000\.tar is truncated: it ends before byte"):
        source.read(3)
    (written / "x-002.tar").unlink()
    with pytest.raises(DataError, match=r"x-002\.tar cannot be read: No such file"):
        source.read(9)


def test_json_of_objects_is_checked(tmp_path):
    sound = {"boxes": [[0, 0, 1, 1]], "labels": [0]}
    changes = (
        {"labels": [0, 1]}, {"labels": [-1]}, {"labels": [0.5]}, {"labels": [True]}, {"difficult": []},
        {"difficult": ["false"]}, {"boxes": [[0, 0, 1]]}, {"boxes": [["0", 0, 1, 1]]}, {"boxes": [[5, 0, 1, 1]]},
        {"boxes": [[0, 0, 1e30, 1]]}, {"boxes": [[0, 0, float("nan"), 1]]}, {"boxes": [0, 0, 1, 1]},
    )  # fmt: skip
    for change in changes:
        about = json.dumps(sound | change).encode()
        write_tar(tmp_path / "t/1.tar", {"a.jpg": b"", "a.objects.json": about})
        with pytest.raises(DataError, match="objects that cannot be read"):
            opened(tmp_path / "t")


def test_boxes_are_clipped_to_their_image_and_those_outside_counted(tmp_path):
    about = {"boxes": [[-3, 2, 5, 99], [40, 40, 60, 60]], "labels": [1, 0], "difficult": [False, True]}
    image = picture(0)  # 12 x 10
    write_tar(tmp_path / "t/1.tar", {"a.jpg": image, "a.objects.json": json.dumps(about).encode()})
    objects = opened(tmp_path / "t").objects(0)
    assert objects.boxes.tolist() == [[0, 2, 5, 10]]
    assert (objects.labels.tolist(), objects.difficult.tolist(), objects.outside) == ([1], [False], 1)
