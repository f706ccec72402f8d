import pytest

from sslkit.axes import parse, show, unify


def test_parse_reads_names_and_numbers():
    assert parse("b 2 d") == ("b", 2, "d")
    assert parse("") == ()
    assert show(("b", 2, "d")) == "b 2 d"


@pytest.mark.parametrize("spec", ["b -1", "b 0", "b v*", "1b"])
def test_parse_refuses_what_is_neither(spec):
    with pytest.raises(ValueError, match="neither a name nor a positive number"):
        parse(spec)


@pytest.mark.parametrize(
    ("required", "actual", "bound"),
    [
        ("b v d", ("b", 2, 256), {"b": "b", "v": 2, "d": 256}),
        ("b 2 d", ("b", 2, 256), {"b": "b", "d": 256}),
        ("b v f h w", ("b", 4, 8, "h", "w"), {"b": "b", "v": 4, "f": 8, "h": "h", "w": "w"}),
    ],
)
def test_unify_binds_names(required, actual, bound):
    sizes = {}
    assert unify(parse(required), actual, sizes) is None
    assert sizes == bound


@pytest.mark.parametrize(
    ("required", "actual", "reason"),
    [
        ("b v d", ("b", 256), "has 3 axes, but the actual row has 2: 'b 256'"),
        ("b 2 d", ("b", 4, 256), "axis '2' of 'b 2 d' does not match 4"),
        ("b k k", ("b", 4, 5), "axis 'k' of 'b k k' does not match 5 in 'b 4 5' (it is 4 elsewhere"),
        ("b 8 d", ("b", "t", 3), "does not match t"),
    ],
)
def test_unify_says_what_clashes(required, actual, reason):
    assert reason in unify(parse(required), actual, {})


def test_a_name_keeps_its_meaning_between_rows():
    bound = {}
    assert unify(parse("b v d"), ("b", 2, 256), bound) is None
    assert "it is 256 elsewhere" in unify(parse("b k d"), ("b", 4, 128), bound)
