import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sslkit.errors import UsageError
from sslkit.planning import toml

VALUES = {"a": 1, "b": {"c": [1, 2]}, "d": [{"x": 1}, {"x": 2}]}


def test_flatten_numbers_the_elements_of_lists_of_tables():
    assert toml.flatten(VALUES) == {"a": 1, "b.c": [1, 2], "d.0.x": 1, "d.1.x": 2}


def test_differences_show_both_sides():
    other = {"a": 1, "b": {"c": [1]}, "d": [{"x": 1}], "e": True}
    assert list(toml.differences(VALUES, other)) == [("b.c", [1, 2], [1]), ("d.1.x", 2, None), ("e", None, True)]
    assert not list(toml.differences(VALUES, VALUES))


keys = st.text("abcdefgh-_", min_size=1, max_size=5)
leaves = st.one_of(st.booleans(), st.integers(-(2**31), 2**31), st.floats(allow_nan=False), st.text(max_size=8))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        keys, st.one_of(leaves, st.lists(st.integers(), max_size=3), st.dictionaries(keys, leaves, max_size=3))
    )
)
def test_what_is_written_is_read_back(values):
    assert tomllib.loads(toml.dumps(values)) == values


def test_an_inline_table_is_read_back():
    options = {"use": "mlp", "root": "my images", "out": 256, "bias": False}
    line = toml.inline(options)
    assert line == '{ use = "mlp", root = "my images", out = 256, bias = false }'
    assert tomllib.loads(f"head = {line}") == {"head": options}


@pytest.mark.parametrize("key", ["a b", "a.b", 'a"b', "ä", ""])
def test_keys_are_quoted_where_toml_needs_it(key):
    assert tomllib.loads(f"table = {toml.inline({key: {}})}") == {"table": {key: {}}}


def test_values_of_python_become_values_of_toml():
    value = {"n": np.int64(3), "x": np.float32(0.5), "b": np.bool_(True), "t": (1, [2]), "p": Path("a"), 1: "s"}
    assert toml.plain(value, "key") == {"n": 3, "x": 0.5, "b": True, "t": [1, [2]], "p": "a", "1": "s"}


@pytest.mark.parametrize(("value", "key"), [(None, "a"), ({"b": None}, "a.b"), ([object], "a"), ({1, 2}, "a")])
def test_other_values_are_refused_with_their_key(value, key):
    with pytest.raises(UsageError, match=f"^{key} = .*: a recipe has no such value"):
        toml.plain(value, "a")
