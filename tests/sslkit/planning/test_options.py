from datetime import date, time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from sslkit.foreign.signatures import schema
from sslkit.planning.options import validate


class Thing:
    def __init__(
        self,
        dims: dict[str, int],
        *,
        count: Annotated[int, Field(ge=1)] = 4,
        scale: tuple[float, float] = (0.1, 1.0),
        mode: Literal["a", "b"] = "a",
        path: Path | None = None,
        sides: tuple[int, ...] = (96, 64),
    ) -> None: ...


def check(**options):
    return validate(schema(Thing), options, ("sampler",))


def test_defaults_are_filled_in_and_types_made():
    options, problems = check(path="here", scale=[0, 1])
    assert not problems
    assert options == {"count": 4, "scale": (0.0, 1.0), "mode": "a", "path": Path("here"), "sides": (96, 64)}


def test_wiring_is_no_option():
    _, [problem] = check(dims={})
    assert "unknown option 'dims'" in problem.what


def test_every_problem_comes_at_once_with_its_key_and_value():
    _, problems = check(count=0, scal=3, mode="c", sides=["x"])
    assert {problem.key: problem.what for problem in problems} == {
        ("sampler", "count"): "count = 0: must be greater than or equal to 1",
        ("sampler", "scal"): "unknown option 'scal': did you mean 'scale'?",
        ("sampler", "mode"): "mode = \"c\": must be 'a' or 'b'",
        ("sampler", "sides", "0"): 'sides[0] = "x": must be a valid integer',
    }


@pytest.mark.parametrize("bad", [{"count": "4"}, {"count": 4.5}, {"count": True}, {"scale": [1.0]}, {"mode": 1}])
def test_types_are_strict(bad):
    assert check(**bad)[1]


def test_dates_are_reported_wherever_they_are():
    _, problems = check(path=date(1979, 5, 27), sides=[time(7, 32), 3], count=0)
    assert {problem.key: problem.what for problem in problems} == {
        ("sampler", "path"): "path = 1979-05-27: is a date or time",
        ("sampler", "sides", "0"): "sides[0] = 07:32:00: is a date or time",
        ("sampler", "count"): "count = 0: must be greater than or equal to 1",
    }
    assert 'for a string, write quotes: "1979-05-27"' in problems[0].instead


def test_whole_numbers_stand_for_floats():
    assert check(scale=[0, 2])[0]["scale"] == (0.0, 2.0)


def test_an_option_without_annotation_is_refused():
    def maker(*, size=3): ...

    with pytest.raises(TypeError, match="'size' of .*maker has no type annotation"):
        schema(maker)


def test_a_required_option_is_named():
    def maker(*, model: str): ...

    _, [problem] = validate(schema(maker), {}, ("backbone",))
    assert (problem.what, problem.instead) == ("option 'model' is missing", "add model = ...")


# ------------------------------------------------------------------------------------------ lists, unions and names


def lists(
    *, lrs: list[Annotated[float, Field(gt=0)]] = [0.1], pair: tuple[float, float] = (0.0, 1.0),  # noqa: B006
    many: tuple[int, ...] = (), either: int | tuple[int, int] = 1, mode: Literal["a", "b"] | list[Literal["a", "b"]] = "a",
    grid: list[list[int]] = [], table: dict[str, list[int]] = {},  # noqa: B006
): ...  # fmt: skip


LISTS = pytest.mark.parametrize(
    ("values", "key", "what"),
    [
        ({"lrs": [-1]}, "lrs.0", "lrs[0] = -1: must be greater than 0"),
        ({"lrs": [1, 2, "x"]}, "lrs.2", 'lrs[2] = "x": must be a valid number'),
        ({"lrs": 3}, "lrs", "lrs = 3: must be a list"),
        ({"pair": [1]}, "pair", "pair = [1]: must have 2 items"),
        ({"pair": []}, "pair", "pair = []: must have 2 items"),
        ({"pair": [1, 2, 3]}, "pair", "pair = [1, 2, 3]: must have at most 2 items, not 3"),
        ({"pair": [1, "x"]}, "pair.1", 'pair[1] = "x": must be a valid number'),
        ({"many": [1, 2.5]}, "many.1", "many[1] = 2.5: must be a valid integer"),
        ({"grid": [[1], [2, "x"]]}, "grid.1.1", 'grid[1][1] = "x": must be a valid integer'),
        ({"table": {"a": [1, "x"]}}, "table.a.1", 'a[1] = "x": must be a valid integer'),
        ({"either": "x"}, "either", 'either = "x": must be a valid integer, or must be a list'),
        ({"either": [1]}, "either", "either = [1]: must have 2 items"),
        ({"either": [1, "x"]}, "either.1", 'either[1] = "x": must be a valid integer'),
        ({"mode": 3}, "mode", "mode = 3: must be 'a' or 'b', or must be a list"),
        ({"mode": ["a", "c"]}, "mode.1", "mode[1] = \"c\": must be 'a' or 'b'"),
    ],
)


def typed(*, path: Path = Path("x"), int: int = 1, str: dict[str, int | bool] = {}, none: int | bool = 0): ...  # noqa: A002, B006


@pytest.mark.parametrize(
    ("values", "key", "what"),
    [
        ({"path": 3}, "path", "path = 3: "), ({"int": "x"}, "int", 'int = "x": '), ({"none": "x"}, "none", 'none = "x": '),
        ({"str": {"float": "x"}}, "str.float", 'float = "x": '), ({"str": {"int": []}}, "str.int", "int = []: "),
    ],
)  # fmt: skip
def test_options_named_like_a_type_are_named(values, key, what):
    [problem] = validate(schema(typed), values, ())[1]
    assert problem.what.startswith(what)
    assert ".".join(problem.key) == key


@LISTS
def test_one_problem_of_a_list_or_a_union_names_its_place(values, key, what):
    [problem] = validate(schema(lists), values, ())[1]
    assert (problem.what, ".".join(problem.key)) == (what, key)
