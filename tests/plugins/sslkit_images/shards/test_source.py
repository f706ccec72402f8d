import io
import json
import multiprocessing
import os
import pickle
import tarfile
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
OBJECTS = b'{"boxes": [[1, 1, 5, 5]], "labels": [0]}'


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
    with pytest.raises(
        DataError, match=r"categories\.txt lists 2 categories, but the highest label is 9 .* d/0009\.jpg"
    ):
        opened(written, labels="json.info.class")
    with pytest.raises(
        DataError,
        match=r'labels = "json.class" cannot be used:\n    labels cannot be read \(10\): x-000.tar/d/0000.json has no \'class\'',
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
    with pytest.raises(DataError, match=r'labels = "cls" cannot be used:\n    images have no label \(1\): a\.jpg$'):
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
        ({"a.jpg": b"", "a.png": b""}, r"two images have the same key \(1\): 1\.tar/a \(a.jpg, a.png\)$"),
        ({"../a.jpg": b"", "../a.objects.json": OBJECTS}, r"names point outside the tar \(1\): 1\.tar/\.\./a\.jpg$"),
        (
            {"v1.2.jpg": b"", "v1.cls": b"1", "v1.objects.json": OBJECTS},
            r"more than one dot; add everything from the first dot on to suffixes, or pack .* \(1\): 1\.tar/v1\.2\.jpg$",
        ),
        (
            {"a.1.png": b"", "a.2.png": b"", "b.3.png": b""},
            r"\(3\): 1\.tar/a\.1\.png, 1\.tar/a\.2\.png, 1\.tar/b\.3\.png$",
        ),
        (
            {"a.jpg": b"", "a.objects.json": b"{"},
            r"objects cannot be read \(1\): 1\.tar/a\.objects\.json is not JSON: ",
        ),
        (
            {"a.png": b"", "A.objects.json": OBJECTS},
            r"objects have no image .*; add .* \(1\): 1\.tar/A\.objects\.json$",
        ),
        (
            {"a.png": b"", "b.heic": b"", "b.objects.json": OBJECTS},
            r"objects have no image of the same key.*tar/b\.obj",
        ),
        (
            {"d/a.png": b"", "a.objects.json": OBJECTS},
            r"objects have no image of the same key.*: 1\.tar/a\.objects\.json$",
        ),
        (
            {"a.png": b"", "a.objects.json": OBJECTS, "./a.objects.json": OBJECTS},
            r"objects occur twice \(1\): 1\.tar/a\.obj",
        ),
        (
            {"a.png": b"", "a.objects.json": OBJECTS, "a.OBJECTS.json": b"{"},
            r"objects occur twice \(1\): 1\.tar/a\.OBJ",
        ),
        (
            {"a.png": b"", "a.1.objects.json": OBJECTS},
            r"objects have a name with more than one dot .*: 1\.tar/a\.1\.obj",
        ),
        ({"a.txt": b""}, r"no images found in 1\.tar; looked for .*\.jpg"),
    ],
)
def test_unusable_tars_are_reported(tmp_path, members, words):
    write_tar(tmp_path / "t/1.tar", members)
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "t")


LINK = object()
"""A member that is a hard link to the one before."""


@pytest.mark.parametrize(
    ("members", "labels", "words"),
    [
        ([("a.png", b""), ("a.cls", b"0"), ("a.cls", b"1")], "cls", r"labels occur twice \(1\): 1\.tar/a\.cls$"),
        ([("a.png", b""), ("a.cls", b"0"), ("./a.cls", b"0")], "cls", r"labels occur twice \(1\): 1\.tar/a\.cls$"),
        (
            [("a.png", b""), ("a.json", b'{"y":1}'), ("a.json", b"x")],
            "json.y",
            r"labels occur twice \(1\): 1\.tar/a\.json$",
        ),
        (
            [("a.png", b""), ("a.cls", b"0"), ("b.cls", b"1")],
            "cls",
            r"labels have no image of .* \(1\): 1\.tar/b\.cls$",
        ),
        ([("a.png", b""), ("a.cls", b"0"), ("A.cls", b"x")], "cls", r"labels have no image .* \(1\): 1\.tar/A\.cls$"),
        (
            [("b.json", b"{}"), ("a.png", b""), ("a.json", b'{"y":1}')],
            "json.y",
            r"labels have no image .* 1\.tar/b\.json",
        ),
        (
            [("a.png", b""), ("a.cls", b"1"), ("b.png", b""), ("b.cls", LINK)],
            "cls",
            r"1\.tar/b\.cls is a link, .*--hard-dere",
        ),
        (
            [("a.png", b""), ("a.cls", b"5.0"), ("b.png", b"")],
            "cls",
            r"(?s)tar/a\.cls holds b'5.0'.*images have no label \(1\): b.png",
        ),
        ([("a.png", b""), ("a.cls", b"1_0")], "cls", r"labels cannot be read \(1\): 1\.tar/a\.cls holds b'1_0'$"),
        ([("a.png", b""), ("a.cls", b"x" * 99)], "cls", r"holds b'x{43}\.\.\.$"),
        ([("a.png", b""), ("a.json", b'{"y":3,"y":4}')], "json.y", r"1\.tar/a\.json has 'y' twice in one object$"),
        ([("a.png", b""), ("a.json", b'{"y":{"z":true}}')], "json.y.z", r"1\.tar/a\.json has True as a label"),
        ([("a.png", b""), ("a.json", b'{"y":[3]}')], "json.y.0", r"1\.tar/a\.json has no 'y\.0' in \{'y': \[3\]\}"),
    ],
)
def test_labels_that_join_no_image_or_several_are_refused(tmp_path, members, labels, words):
    path = tmp_path / "t/1.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is LINK:
                info.type, info.linkname = tarfile.LNKTYPE, "a.cls"
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data if isinstance(data, bytes) else b""))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=words) as error:
            opened(path.parent, labels=labels)
        assert f'{path.parent}: labels = "{labels}" cannot be used:\n' in str(error.value)
    opened(path.parent)


@pytest.mark.parametrize(
    "text", [b"7", b" 7\n", b"0" * 64 + b"7", b" " * 99 + b"7", b"\xef\xbb\xbf7", "7".encode("utf-16")]
)
def test_labels_are_read_whole(tmp_path, text):
    write_tar(tmp_path / "t/1.tar", {"a.jpg": b"", "a.cls": text})
    assert opened(tmp_path / "t", labels="cls").label(0) == 7


def test_ten_of_each_kind_are_named_over_all_tars(tmp_path):
    for tar in range(3):
        members = {}
        for number in range(tar, 12, 3):
            members |= {f"{number:02}.jpg": b"", f"{number:02}.objects.json": b"[", f"{number:02}.cls": b"x"}
        write_tar(tmp_path / f"t/{tar}.tar", members)
    with pytest.raises(
        DataError, match=r"objects cannot be read \(12\): 0\.tar/00\.objects\.json .* and 2 more$"
    ) as error:
        opened(tmp_path / "t")
    assert str(error.value).count("objects.json is not JSON") == 10
    for tar in range(3):
        write_tar(tmp_path / f"t/{tar}.tar", {f"{number:02}.jpg": b"" for number in range(tar, 12, 3)})
    with pytest.raises(DataError, match=r"images have no label \(12\): 00\.jpg, .* and 2 more$") as error:
        opened(tmp_path / "t", labels="cls")
    assert str(error.value).count(".jpg") == 10


def test_records_beyond_the_tenth_are_counted_in_each_tar(tmp_path):
    for tar in range(2):
        bad = {f"{number:02}.{end}": b"[" for number in range(12) for end in ("jpg", "objects.json", "cls")}
        write_tar(tmp_path / f"t/{tar}.tar", bad)
    with pytest.raises(DataError, match=r"objects cannot be read \(24\): 0\.tar/00.* 0\.tar/09.* and 14 more$"):
        opened(tmp_path / "t")
    for tar in range(2):
        write_tar(tmp_path / f"t/{tar}.tar", {name: data for name, data in bad.items() if "objects" not in name})
    with pytest.raises(DataError, match=r"labels cannot be read \(24\): 0\.tar/00.* 0\.tar/09.* and 14 more$"):
        opened(tmp_path / "t", labels="cls")


def test_ten_tars_that_cannot_be_read_are_named_beside_problems_of_others(tmp_path):
    write_tar(tmp_path / "t/a.tar", {"a.jpg": b"", "a.objects.json": b"["})
    for number in range(12):
        (tmp_path / f"t/b{number:02}.tar").write_bytes(b"x" * number)
    with pytest.raises(DataError, match="and 2 more that cannot be read\n    objects cannot be read") as error:
        opened(tmp_path / "t")
    assert str(error.value).count(".tar is") == 10


def test_images_beside_that_of_their_sample_are_counted(tmp_path):
    write_tar(tmp_path / "t/1.tar", {"a.png": b"", "a.1.png": b"", "a.2.png": b"", "b.png": b"", "b.seg.png": b""})
    source = opened(tmp_path / "t")
    assert (len(source), source.left_out()["images beside that of their sample"]) == (2, 3)


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": [0, 1]}, "has lists of different lengths: 1 boxes, 2 labels$"),
        ({"labels": []}, "has lists of different lengths: 1 boxes, 0 labels$"),
        ({"difficult": []}, "has lists of different lengths: 1 boxes, 1 labels, 0 difficult$"),
        ({"labels": [-1]}, "has -1 as a label: write a whole number from 0 on"),
        ({"labels": [0.5]}, "has 0.5 as a label"),
        ({"labels": [True]}, "has True as a label"),
        ({"labels": [10**30]}, "has 10{30} as a label"),
        ({"labels": 3}, "has 'labels' that is no list: 3"),
        ({"labels": None}, "has 'labels' that is no list: None"),
        ({"difficult": ["false"]}, "has 'false' in 'difficult'"),
        ({"difficult": {"a": 1}}, "has 'difficult' that is no list"),
        ({"boxes": [[0, 0, 1]]}, r"has \[0, 0, 1\], which is no box of four numbers"),
        ({"boxes": [["0", 0, 1, 1]]}, ".*which is no box of four numbers"),
        ({"boxes": [0, 0, 1, 1]}, "has 0, which is no box of four numbers"),
        ({"boxes": [[5, 0, 1, 1]]}, r"has \[5, 0, 1, 1\], which is no box of left, top, right and bottom"),
        ({"boxes": [[0, 0, 1e30, 1]]}, ".*which is no box of left"),
        ({"boxes": [[0, 0, float("nan"), 1]]}, ".*which is no box of left"),
        ({"boxes": [["x" * 999, 0, 1, 1]]}, r"has \['x{43}\.\.\., which"),
        (b"[1]", r'is \[1\]: write \{"boxes": \[\[left, top, right, bottom\], \.\.\.\]'),
        (b'"boxes"', "is 'boxes': write"),
        (b"", "is empty"),
        (b"{'boxes': []}", "is not JSON: Expecting property name"),
        (b'{"boxes":[[1,1,5,5]]}', r"has no 'labels', but \['boxes'\]"),
        (b'{"labels":[1],"Boxes":[[1,1,5,5]]}', r"has no 'boxes', but \['labels', 'Boxes'\]"),
        (b'{"boxes":[],"labels":[],"boxes":[[1,1,5,5]]}', "has 'boxes' twice in one object"),
        (b'{"x":"\xe9"}', "is not UTF-8 text .byte 0xe9."),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"boxes":[[1,1,5,5]],"labels":[' + b"1" * 5000 + b"]}", "has a number of too many digits"),
        (OBJECTS + b" " * (1 << 24), r"has 167\d+ bytes: at most 16777216 \(16 MiB\) are read"),
    ],
)
def test_json_of_objects_is_checked(tmp_path, change, words):
    sound = {"boxes": [[0, 0, 1, 1]], "labels": [0]}
    about = json.dumps(sound | change).encode() if isinstance(change, dict) else change
    write_tar(tmp_path / "t/1.tar", {"a.jpg": b"", "a.objects.json": about})
    with pytest.raises(DataError, match=rf"objects cannot be read \(1\): 1\.tar/a\.objects\.json {words}"):
        opened(tmp_path / "t")


@pytest.mark.parametrize(
    ("box", "objects", "without_area", "outside"),
    [
        ([6, 2, 6, 8], 0, 1, 0),
        ([6, 2, 9, 2], 0, 1, 0),
        ([6, 2, 6.5, 8], 0, 1, 0),
        ([40, 30, 40 + 1e-9, 31], 0, 1, 0),
        ([11.5, 2, 40, 8], 0, 0, 1),
        ([-4, -4, 5, 0.01], 0, 0, 1),
        ([40, 40, 60, 60], 0, 0, 1),
        ([0.3, 0.3, 1.3, 1.3], 1, 0, 0),
        ([11, 2, 40, 8], 1, 0, 0),
    ],
)
def test_every_object_is_shown_or_counted(tmp_path, box, objects, without_area, outside):
    about = {"boxes": [box, [1, 1, 5, 5]], "labels": [1, 0], "difficult": [True, False]}
    write_tar(tmp_path / "t/1.tar", {"a.jpg": picture(0), "a.objects.json": json.dumps(about).encode()})
    source = opened(tmp_path / "t")
    found = source.objects(0)
    assert found.labels.tolist() == [1] * objects + [0]
    counts = (len(found.labels) - 1, source.left_out()["objects without a box of at least a pixel"], found.outside)
    assert counts == (objects, without_area, outside)


def test_boxes_are_clipped_to_their_image_and_those_outside_counted(tmp_path):
    about = {"boxes": [[-3, 2, 5, 99], [40, 40, 60, 60]], "labels": [1, 0], "difficult": [False, True]}
    image = picture(0)  # 12 x 10
    write_tar(tmp_path / "t/1.tar", {"a.jpg": image, "a.objects.json": json.dumps(about).encode()})
    objects = opened(tmp_path / "t").objects(0)
    assert objects.boxes.tolist() == [[0, 2, 5, 10]]
    assert (objects.labels.tolist(), objects.difficult.tolist(), objects.outside) == ([1], [False], 1)
