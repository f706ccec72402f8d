from datetime import date, time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from sslkit.planning.options import schema, validate


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
        ("sampler", "sides", "0"): '0 = "x": must be a valid integer',
    }


@pytest.mark.parametrize("bad", [{"count": "4"}, {"count": 4.5}, {"count": True}, {"scale": [1.0]}, {"mode": 1}])
def test_types_are_strict(bad):
    assert check(**bad)[1]


def test_dates_are_reported_wherever_they_are():
    _, problems = check(path=date(1979, 5, 27), sides=[time(7, 32), 3], count=0)
    assert {problem.key: problem.what for problem in problems} == {
        ("sampler", "path"): "path = 1979-05-27: is a date or time",
        ("sampler", "sides", "0"): "0 = 07:32:00: is a date or time",
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
