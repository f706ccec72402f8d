"""The words of the command line."""

from __future__ import annotations

import pytest

from sslkit.ablation.requests import parse_changes, parse_values, split_assignment


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.b=1,2", (("a", "b"), "1,2")),
        (" a . b =", (("a", "b"), "")),
        ("a={b = 1}", (("a",), "{b = 1}")),
        ("a", None),
        ("=1", None),
        ("a..b=1", None),
    ],
)
def test_an_assignment_is_split_into_key_and_text(words, expected):
    assert split_assignment(words) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,2", [1, 2]), ("a, b", ["a", "b"]), ("[1, 2], true", [[1, 2], True]), ("0.5", [0.5]), ("a,1", ["a", 1])],
)
def test_values_are_toml_and_strings_need_no_quotes(text, expected):
    assert parse_values(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--drop a,b --set 'c = 1'", [("--drop", "a,b"), ("--set", "c = 1")]),
        ("--drop", []),
        ("--vary a=1", []),
        ("--drop 'a", []),
        ("", []),
    ],
)
def test_changes_are_pairs_of_option_and_value(text, expected):
    assert parse_changes(text) == expected
