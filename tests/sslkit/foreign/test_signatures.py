"""Options that cannot be read, or that no recipe could set, are told one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field

from sslkit.foreign.signatures import CORE_KEYS, option_faults, schema
from sslkit.planning.recipe import Choice, ObjectiveTable, ProbeTable, ProposalsTable


def maker(annotation: Any, name: str = "x", default: Any = None) -> Any:
    """Return a function with an option of this annotation, and with another one that is right."""
    names = {"annotation": annotation, "default": default}
    exec(f"def made(wired, *, fine: int = 1, {name}: annotation = default): ...", names)
    return names["made"]


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (np.ndarray | None, "Unable to generate pydantic-core schema for <class 'numpy.ndarray'>"),
        (np.float32, "Unable to generate"), ("int[", "SyntaxError"), ("np.flot", "name 'np' is not defined"),
        ("Nope", "name 'Nope' is not defined"), ("annotation.nope", "AttributeError"), (3, "schema for 3"), (Callable[[int], int], "JsonSchema"),
        (Callable, "JsonSchema"), (Annotated[int, Field(ge="a")], "'ge' must be"), (Annotated[str, Field(pattern="[")], "unclosed"), (type, "JsonSchema"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_read_is_named(annotation, why):
    [fault] = option_faults("probe", maker(annotation))
    assert fault.startswith("its option 'x' cannot be read: ")
    assert "write types that a recipe can hold" in fault
    assert "\n" not in fault
    assert why in fault


def test_all_options_that_cannot_be_read_are_told_at_once():
    def made(*, one: Nope, two: np.ndarray, three, four: int = 1): ...  # noqa: F821

    faults = option_faults("source", made)
    assert [fault.partition("'")[2].partition("'")[0] for fault in faults] == ["one", "two", "three"]
    assert "has no type annotation" in faults[2]


@pytest.mark.parametrize(
    "name", ["model_dump", "model_config", "model_extra", "model_validate_json", "_hidden", "__x__"]
)
def test_reserved_names_are_told(name):
    assert option_faults("probe", maker(int, name)) == [f"its option '{name}' has a reserved name: choose another name"]


@pytest.mark.parametrize(
    ("kind", "table"), [("proposer", ProposalsTable), ("objective", ObjectiveTable), ("probe", ProbeTable), ("source", Choice)]
)  # fmt: skip
def test_names_that_the_core_reads_are_told(kind, table):
    assert set(CORE_KEYS.get(kind, ())) | {"use"} == set(table.model_fields)
    for name in table.model_fields:
        [fault] = option_faults(kind, maker(int, name))
        assert f"its option '{name}' has the name of a key that sslkit itself reads" in fault


def test_the_core_reads_other_names_for_other_kinds():
    for kind, name in [("sampler", "size"), ("source", "weight"), ("head", "crops"), ("backbone", "head")]:
        assert not option_faults(kind, maker(int, name, 1))


@pytest.mark.parametrize("name", ["json", "copy", "schema", "dict", "validate", "model", "models", "fields"])
def test_names_that_pydantic_uses_are_free(name):
    """Without a warning, either: warnings are errors here."""
    assert not option_faults("source", maker(int, name, 1))
    assert name in schema(maker(int, name, 1)).model_fields


@pytest.mark.parametrize("default", [np.zeros(3), object(), b"\xff"])
def test_a_default_that_json_cannot_hold_is_right(default):
    assert not option_faults("source", maker(Any, "x", default))


def test_a_length_in_steps_beside_one_in_epochs_is_none_by_default():
    def made(*, hold_epochs: float = 1.0, hold_steps: int = 2): ...

    assert option_faults("head", made) == ["option 'hold_steps' must default to None, beside 'hold_epochs'"]


def test_a_class_without_a_signature_is_told():
    class Odd:
        __init__ = property(lambda self: 1 / 0)

    [fault] = option_faults("head", Odd)
    assert fault.startswith("its options cannot be read: TypeError")
