"""Text files by hand: encodings with and without marks, line ends, and what is said of others."""

from __future__ import annotations

import pytest

from sslkit.text_files import EncodingError, decode, read_text

TEXT = "seed = 0\n# größer, 大\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_make_no_difference(tmp_path, encoding, ends):
    file = tmp_path / "a.toml"
    file.write_bytes(TEXT.replace("\n", ends).encode(encoding))
    assert read_text(file) == TEXT


@pytest.mark.parametrize("big", [False, True])
def test_both_byte_orders(big):
    mark = b"\xfe\xff" if big else b"\xff\xfe"
    assert decode(mark + TEXT.encode("utf-16-be" if big else "utf-16-le")) == TEXT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("seed = 0\n# größer".encode("latin-1"), r"line 2 is not UTF-8 text \(byte 0xf6\): save the file as UTF-8"),
        (b"\xef\xbb\xbfa\n\n\xff", "line 3 is not UTF-8 text"),
        ("a\nb".encode("utf-16")[:-1], "line 2 is not UTF-16-LE text"),
        ("größer".encode("gb18030"), "line 1 is not UTF-8 text"),
    ],
)
def test_another_encoding_is_told_with_its_line(data, message):
    with pytest.raises(EncodingError, match=message):
        decode(data)


def test_bytes_that_are_no_text_can_be_kept():
    kept = decode(b"\xef\xbb\xbf\xe9t\xe9\r\n", "surrogateescape")
    assert kept.encode("utf-8", "surrogateescape") == b"\xe9t\xe9\n"


def test_nothing_is_an_empty_text():
    assert decode(b"") == ""
    assert decode(b"\xef\xbb\xbf") == ""
