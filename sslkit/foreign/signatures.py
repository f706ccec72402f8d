"""Derive option schemas from constructors: one signature gives a validator and a JSON schema.

Parameters left of `*` are wiring; those right of `*` are what a recipe may set.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from sslkit.foreign import lengths
from sslkit.foreign.isolation import describe, isolated

_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False)
CORE_KEYS: Mapping[str, tuple[str, ...]] = {
    "proposer": ("when_missing",),
    "objective": ("weight", "head", "inputs"),
    "probe": (
        "source", "test_source", "crops", "size", "fit", "pool", "min_side", "loosen", "limit", "every", "test_share",
    ),
}  # fmt: skip
"""Kind of component -> the keys of its table, beside `use`, that the core reads itself: no option has such a name."""
_TYPES = "write types that a recipe can hold: numbers, strings, bool, None, Path, Literal, and lists or dicts of these"


def schema(maker: Any) -> type[BaseModel]:
    """Return the pydantic model of a class's or function's keyword-only parameters.

    Raises:
        TypeError: A parameter right of `*` has no annotation, or is a length in steps beside one in epochs and is not
            None by default.
        Exception: An annotation cannot be read, in any of the ways that Python and pydantic have.
    """
    parameters = _options(maker)
    for fault in _length_faults(parameters):
        raise TypeError(f"{maker.__qualname__}: {fault}")
    return _model(maker, parameters)


def option_faults(kind: str, maker: Any) -> list[str]:
    """Return what is wrong with the options of a component of some kind, as messages."""
    faults: list[str] = []
    with isolated(lambda error: faults.append(f"its options cannot be read: {describe(error)}")):
        parameters = _options(maker)
        names = {name: _name_fault(kind, name) for name in parameters}
        faults += [*filter(None, names.values()), *_length_faults(parameters)]
        faults += _unreadable(maker, {name: item for name, item in parameters.items() if not names[name]})
    return faults


def _name_fault(kind: str, name: str) -> str | None:
    """Return why an option cannot have a name: a recipe could not set it."""
    if name in ("use", *CORE_KEYS.get(kind, ())):
        return f"its option '{name}' has the name of a key that sslkit itself reads: choose another name"
    if name.startswith("_") or (name.startswith("model_") and hasattr(BaseModel, name)):
        return f"its option '{name}' has a reserved name: choose another name"
    return None


def _length_faults(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [
        f"option '{steps}' must default to None, beside '{epochs}'"
        for epochs, steps in lengths.pairs(parameters)
        if parameters[steps].default is not None
    ]


def _unreadable(maker: Any, parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return a message for each option that cannot be read, or one for all where none alone is the cause."""
    whole = _reading_fails(maker, parameters)
    each = {name: _reading_fails(maker, {name: item}) for name, item in parameters.items()} if whole else {}
    faults = [f"its option '{name}' cannot be read: {why}; {_TYPES}" for name, why in each.items() if why]
    return faults or ([f"its options cannot be read: {whole}"] if whole else [])


def _reading_fails(maker: Any, parameters: Mapping[str, inspect.Parameter]) -> str:
    """Return why parameters cannot be read as options, in one line; nothing if they can."""
    reasons: list[str] = []
    with isolated(lambda error: reasons.extend(describe(error).splitlines())):
        _read(maker, parameters)
    if not reasons:
        return ""
    first = reasons[-1] if reasons[0].endswith(":") else reasons[0]  # pydantic goes from the outer to the inner cause
    return first.strip().partition(". ")[0]


def _read(maker: Any, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Read parameters as options, as a validator and as a JSON schema."""
    model = _model(maker, parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a default that JSON cannot hold is left out
        model.model_json_schema()


def _options(maker: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(_function(maker)).parameters
    return {name: item for name, item in parameters.items() if item.kind is inspect.Parameter.KEYWORD_ONLY}


def _function(maker: Any) -> Any:
    return maker.__init__ if inspect.isclass(maker) else maker


def _model(maker: Any, parameters: Mapping[str, inspect.Parameter]) -> type[BaseModel]:
    names = getattr(inspect.unwrap(_function(maker)), "__globals__", {})
    fields: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.annotation is inspect.Parameter.empty:
            raise TypeError(f"option '{name}' of {maker.__qualname__} has no type annotation")
        hints = get_type_hints(SimpleNamespace(__annotations__={name: parameter.annotation}), names, None, True)
        fields[name] = (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an option named `json` hides a method of the model, which nothing calls
        return create_model(maker.__name__, __config__=_STRICT, **fields)
