import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.errors import DataError
from sslkit_proposals import stream
from sslkit_proposals.stream import elements

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=5).filter(lambda name: name != "bbox"), values, max_size=3),
    st.lists(values, max_size=6),
    st.integers(1, 30),
    st.sampled_from([None, 1]),
)
@settings(max_examples=200, deadline=None)
def test_elements_are_those_of_the_json_module(before, array, block, indent):
    file = io.StringIO(json.dumps({**before, "bbox": array, "after": [1]}, indent=indent))
    assert list(stream._JsonWindow(Path("file.json"), file, block).member("bbox")) == array


class Counted(io.StringIO):
    """Record the sizes of all reads."""

    sizes: list

    def read(self, size=-1):
        self.sizes.append(size)
        return super().read(size)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "file.json"
    file.write_text('{"name": "größer", "bbox": [1, 2]}', encoding="utf-8-sig")
    assert list(elements(file, "bbox")) == [1, 2]


def test_a_file_is_read_in_blocks_that_are_discarded(tmp_path):
    images = [[[n, 0, 10, 10]] * 20 for n in range(500)]
    text = json.dumps({"bbox": images})
    file = Counted(text)
    file.sizes = []
    window = stream._JsonWindow(tmp_path, file, 1000)
    longest = 0
    for image, expected in zip(window.member("bbox"), images, strict=True):
        assert image == expected
        longest = max(longest, len(window.text))
    assert max(file.sizes) == 1000
    assert longest < 2500 < len(text) / 50


def test_the_rest_of_the_file_is_not_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"bbox": [1, 2], and then nonsense')
    assert list(elements(path, "bbox")) == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "'{' expected at character 0, found '\\[1\\]'"),
        ('{"images": [1], "x": {}}', "no array 'bbox', only 'images', 'x'"),
        ("{}", "an empty object"),
        ('{"bbox": [[1, 2], [3', "a whole JSON value expected at character 18, found '\\[3'"),
        ('{"bbox": [[1, 2]', "found the end of the file"),
        ('{"bbox": [[1] [2]]}', "',' expected at character 14"),
        ('{"bbox": 3}', "'\\[' expected"),
        ("", "more text expected at character 0"),
    ],
)
def test_errors_name_the_position(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(elements(path, "bbox"))


@pytest.mark.parametrize("opening", ["[", "1,", "9", '"'], ids=["nested", "wide", "digits", "text"])
def test_an_endless_element_does_not_exhaust_memory(tmp_path, monkeypatch, opening):
    monkeypatch.setattr(stream, "LONGEST", 1000)
    path = tmp_path / "file.json"
    path.write_text('{"bbox": [[' + opening * 100_000)
    with pytest.raises(DataError, match=r"a (shorter|flatter) JSON value"):
        list(elements(path, "bbox", 100))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json cannot be read"):
        list(elements(tmp_path / "absent.json", "bbox"))
