"""Records of a JSON file, one by one: the same as `json` reads, whatever the chunks, and errors with their line."""

from __future__ import annotations

import json
import random

import pytest

from sslkit import json_records
from sslkit.files import EncodingError
from sslkit.json_records import JsonError, Record, read_records


@pytest.fixture
def read(tmp_path):
    def of(content, keys=("a", "b")):
        file = tmp_path / "file.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_records(file, keys))

    return of


def value(rng, depth=0):
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 6:
        return [
            None,
            True,
            rng.randrange(-(10**9), 10**9),
            rng.random() * 10 ** rng.randrange(-9, 9),
            "",
            '"\\\n, ]}é😀',
        ][kind]
    items = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return items if kind == 6 else {f"k{number}": item for number, item in enumerate(items)}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 3])
def test_it_reads_what_json_reads(read, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    rng = random.Random(chunk)
    for _ in range(20):
        content = {
            "info": value(rng), "a": [value(rng) for _ in range(rng.randrange(6))], "other": [value(rng)],
            "b": [value(rng) for _ in range(rng.randrange(3))], "last": value(rng),
        }  # fmt: skip
        text = json.dumps(content, indent=indent, ensure_ascii=rng.random() < 0.5)
        wanted = [Record(key, place, item) for key in ("a", "b") for place, item in enumerate(content[key])]
        assert read(text) == wanted


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_of_json_is_read(read, encoding):
    assert read('{"a": ["\u00e9"]}'.encode(encoding)) == [Record("a", 0, "é")]


def test_empty_and_absent_arrays_have_no_records(read):
    assert read("{}") == read('{"a": []}') == read('{"c": [1]}') == read(' { "a" : [ ] , "d" : { } } ') == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "does not hold an object"),
        ("[1]", "does not hold an object"),
        ("nonsense", "does not hold an object"),
        ('{"a": [1,\n 2,\n 3', "line 3 is not valid JSON: ',' or ']' is missing, after '.*3'"),
        ('{"a": [1, 2}', "line 1 is not valid JSON: ',' or ']' is missing"),
        ('{"a": [1, "two', "line 1 is not valid JSON: Unterminated string"),
        ('{"a": [1,,2]}', "line 1 is not valid JSON: a value is missing or cannot be read"),
        ('{"a": [1],}', "a key in double quotes is missing"),
        ("{'a': [1]}", "a key in double quotes is missing"),
        ('{"a" [1]}', "':' is missing"),
        ('{"a": [{"x": tru}]}', "line 1 is not valid JSON"),
        ('{"a": [1]} {"b": [2]}', "there is more after the end of its object"),
        ('{"a": [1], "a": [2]}', "it has 'a' twice"),
        ('{"a": {"0": 1}}', "'a' is not a list: {\"0\": 1}"),
        ('{"a": null}', "'a' is not a list: null"),
        ('{"a": [' + "[" * 100_000, "nested too deeply"),
        ('{"a": [' + "9" * 5000 + "]}", "Exceeds the limit"),
    ],
)
@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_what_is_no_json_is_named_with_its_line(read, monkeypatch, chunk, content, words):
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    with pytest.raises(JsonError, match=words):
        read(content)


def test_an_error_far_from_the_end_does_not_read_the_rest(read, monkeypatch):
    monkeypatch.setattr(json_records, "_CHUNK", 100)
    reads = []
    extend = json_records._Reader._extend
    monkeypatch.setattr(json_records._Reader, "_extend", lambda self: reads.append(1) or extend(self))
    with pytest.raises(JsonError, match="line 2"):
        read('{"a": [\n{"x": 1 "y": 2},' + " " * 100_000)
    assert len(reads) < 5


@pytest.mark.parametrize(
    "endless",
    ["[" * 100_000, "1," * 100_000, "9" * 100_000, '"' + "a" * 100_000, '{"a":' * 100_000],
    ids=["nested", "wide", "digits", "text", "objects"],
)
def test_an_endless_value_does_not_take_all_memory(read, monkeypatch, endless):
    monkeypatch.setattr(json_records, "LONGEST", 1000)
    monkeypatch.setattr(json_records, "_CHUNK", 100)
    with pytest.raises(JsonError, match=r"longer than 1000 characters|nested too deeply"):
        read('{"a": [[' + endless)


def test_memory_is_that_of_one_record(read, monkeypatch):
    monkeypatch.setattr(json_records, "_CHUNK", 1000)
    windows = []
    extend = json_records._Reader._extend
    monkeypatch.setattr(
        json_records._Reader, "_extend", lambda self: (extend(self), windows.append(len(self._window)))[0]
    )
    images = [[[n, 0, 10, 10]] * 20 for n in range(500)]
    assert [record.value for record in read(json.dumps({"a": images}))] == images
    assert max(windows) < 2500


def test_a_required_key_is_named_with_those_that_are_there(tmp_path):
    file = tmp_path / "file.json"
    file.write_text('{"images": [1], "x": {}}')
    with pytest.raises(JsonError, match="it has no 'bbox', only 'images', 'x'"):
        list(read_records(file, {"bbox"}, {"bbox"}))
    file.write_text("{}")
    with pytest.raises(JsonError, match="it has no 'bbox', only an empty object"):
        list(read_records(file, {"bbox"}, {"bbox"}))


def test_another_encoding_is_named(read):
    with pytest.raises(EncodingError, match=r"not UTF-8 text \(byte 0xe9\): save the file as UTF-8"):
        read(b'{"a": ["\xe9t\xe9"]}')
