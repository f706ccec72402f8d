import pytest

from sslkit.errors import DataError
from sslkit_images.shards.categories import encode_categories, read_categories

from .conftest import opened, write_tar


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"cat\ncat\n", r"names occur twice \(1\): line 2 is 'cat' like line 1"),
        ("ü\r\ndog\r\nü".encode(), r"names occur twice \(1\): line 3 is 'ü' like line 1"),
        (b"cat\n\n\ndog\n", r"names are blank \(2\): line 2 is '', line 3 is ''"),
        (b"cat\ndog\n\n", r"names are blank \(1\): line 3"),
        (b"\n", r"names are blank \(1\): line 1"),
        (b" \ncat", r"names are blank \(1\): line 1"),
        (b"", "it is empty: write one name per line, in the order of the labels"),
        ("\ufeff".encode(), r"names are blank \(1\): line 1"),
        (b"ca\rt\ndog\n", "line ends of two kinds"),
        (b"cat\r\nd\rog\r\n", "line ends of two kinds"),
        ("ca\u2028t\ndog\n".encode(), r"names have a line break in them \(1\): line 1"),
        (b"ca\x0ct\nd\x1cog\n", r"names have a line break in them \(2\)"),
        ("cat\n\ufeffdog\n".encode(), r"names are not valid text \(1\): line 2"),
        (b"".join(b"x\n" for _ in range(14)), r"names occur twice \(13\): line 2 .* and 3 more"),
        (b"cat\nd\xe9\n", "line 2 is not UTF-8 text"),
    ],
)
def test_lines_that_are_not_one_name_each_are_refused(tmp_path, data, words):
    root = write_tar(tmp_path / "t/1.tar", {"a.jpg": b"", "a.cls": b"0"}).parent
    (root / "categories.txt").write_bytes(data)
    with pytest.raises(DataError, match=words) as error:
        opened(root, labels="cls")
    assert f"{root}/categories.txt cannot be " in str(error.value)


@pytest.mark.parametrize("data", [b"cat\rdog\r", b"cat\r\ndog", b"cat\ndog\n", "cat\r\ndog".encode("utf-16")])
def test_line_ends_of_one_kind_are_read(tmp_path, data):
    (tmp_path / "names").write_bytes(data)
    assert read_categories(tmp_path / "names") == ("cat", "dog")


def test_what_is_written_is_read_again(tmp_path):
    names = ("0 cat", "ca\tt", "CAT", "cat", " cat", "größer")
    (tmp_path / "names").write_bytes(encode_categories(names))
    assert read_categories(tmp_path / "names") == names
    assert encode_categories(()) == b""
