"""XML in the encoding that it declares."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from sslkit.files import EncodingError
from sslkit_images.xml_text import parse_xml

BODY = "<annotation><folder>{}</folder></annotation>"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Tür 狗"), ("UTF8", "Tür 狗"), ("utf-8-sig", "狗"), ("utf-16", "狗"), ("iso-8859-1", "Tür"),
        ("ISO-8859-15", "Tür €"), ("gb2312", "狗"), ("GBK", "狗"), ("gb18030", "狗"), ("big5", "狗"),
        ("shift_jis", "犬"), ("euc-kr", "개"), ("windows-1251", "собака"), ("koi8-r", "собака"), ("us-ascii", "dog"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("quote", ['"', "'"])
def test_the_declared_encoding_is_used(encoding, text, quote):
    head = f"<?xml version={quote}1.0{quote} encoding = {quote}{encoding}{quote} standalone={quote}no{quote}?>\n"
    declared = head.replace("-sig", "")
    assert parse_xml((declared + BODY.format(text)).encode(encoding)).findtext("folder") == text


def test_without_a_declaration_it_is_utf_8():
    assert parse_xml(BODY.format("狗").encode()).findtext("folder") == "狗"
    assert parse_xml(BODY.format("狗").encode("utf-8-sig")).findtext("folder") == "狗"
    assert parse_xml(BODY.format("狗").encode("utf-16")).findtext("folder") == "狗"


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf8mb4", "declares the encoding 'utf8mb4', which is not known: save the file as UTF-8"),
        ("base64", "declares the encoding 'base64', which is not known"),
        ("", "XML declaration not well-formed|not well-formed"),
    ],
)
def test_an_unknown_encoding_is_named(encoding, message):
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    with pytest.raises((EncodingError, ElementTree.ParseError), match=message):
        parse_xml((head + BODY.format("dog")).encode())


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("utf-7", b"<a>+2AA-</a>"), ("raw_unicode_escape", b"<a>\\ud800</a>"), ("unicode_escape", b"<a>\\udfff</a>"),
        ("utf-7", b"<a>+3/8-</a>"),
    ],
)  # fmt: skip
def test_what_is_no_character_is_told(encoding, body):
    with pytest.raises(EncodingError, match=rf"declares the encoding '{encoding}', and holds '\\ud...', which is no"):
        parse_xml(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + body)


@pytest.mark.parametrize("name", ["a" * 100_000, "../" * 50, "utf" * 30])
def test_a_long_encoding_is_shortened(name):
    with pytest.raises(EncodingError) as caught:
        parse_xml(f'<?xml version="1.0" encoding="{name}"?><a/>'.encode())
    assert str(caught.value) == f"it declares the encoding '{name[:45]}...', which is not known: save the file as UTF-8"


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "windows-1252", "big5"])
def test_a_declaration_that_is_wrong_is_told(encoding):
    data = f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + BODY.encode().replace(b"{}", b"\x81\x00\xff\x8d")
    with pytest.raises(EncodingError, match=f"declares the encoding '{encoding}', but is in another one"):
        parse_xml(data)
