"""Options of a run: by keyword, in groups, and the same as those of the command."""

from __future__ import annotations

from dataclasses import fields

import pytest
import typer

from sslkit.__main__ import main
from sslkit.cli import make_app
from sslkit.errors import UsageError
from sslkit.foreign.signatures import schema
from sslkit.training import options
from sslkit.training.options import RunOptions, check_options

GROUPS = (
    options.DeviceOptions, options.LoaderOptions, options.StepOptions, options.CheckpointOptions,
    options.MonitorOptions,
)  # fmt: skip


def test_options_are_given_by_keyword_alone() -> None:
    with pytest.raises(TypeError):
        RunOptions("cpu")


def test_each_option_is_in_one_group() -> None:
    grouped = [field.name for group in GROUPS for field in fields(group)]
    assert len(grouped) == len(set(grouped))
    assert {field.name for field in fields(RunOptions)} == {*grouped, "stop_after"}


@pytest.mark.parametrize("name", ["workers", "cache_gb", "nodes"])
def test_the_command_has_the_same_bounds(capsys, name) -> None:
    values = schema(RunOptions).model_json_schema()["properties"][name]
    [bound] = [one for one in values.get("anyOf", [values]) if "maximum" in one]
    for value in (bound["maximum"] + 1, bound["minimum"] - 1):
        assert main(["run", "no-such-recipe", f"--{name.replace('_', '-')}", str(value)]) == 2
        assert str(bound["maximum" if value > 0 else "minimum"]) in capsys.readouterr().err
        with pytest.raises(UsageError, match=f"{name} = {value}: must be "):
            check_options({name: value})


def test_the_command_has_every_option_with_the_same_default() -> None:
    app = typer.main.get_command(make_app())
    parameters = {parameter.name: parameter.default for parameter in app.commands["run"].params}
    renamed = {"compile": "compiled"}
    for field in fields(RunOptions):
        assert parameters[renamed.get(field.name, field.name)] == field.default, field.name
