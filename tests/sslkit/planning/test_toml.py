import tomllib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
