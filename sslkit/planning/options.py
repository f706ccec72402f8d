"""Derive option schemas from constructors: one signature gives a validator and a JSON schema.

Parameters left of `*` are wiring; those right of `*` are what a recipe may set.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from sslkit.errors import Problem, closest
from sslkit.planning import lengths

Model = TypeVar("Model", bound=BaseModel)
_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False)


def schema(maker: Any) -> type[BaseModel]:
    """Return the pydantic model of a class's or function's keyword-only parameters.

    Raises:
        TypeError: A parameter right of `*` has no annotation, or is a length in steps beside one in epochs and is not
            None by default.
    """
    function = maker.__init__ if inspect.isclass(maker) else maker
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if name not in hints:
            raise TypeError(f"option '{name}' of {maker.__qualname__} has no type annotation")
        fields[name] = (
            hints[name],
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
    for epochs, steps in lengths.pairs(fields):
        if fields[steps][1] is not None:
            raise TypeError(f"option '{steps}' of {maker.__qualname__} must default to None, beside '{epochs}'")
    return create_model(maker.__name__, __config__=_STRICT, **fields)


def validate(
    model: type[BaseModel], values: Mapping[str, Any], key: tuple[str, ...], beside: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Validate options strictly: `"4"` is not a number, and `1.5` is not an integer.

    Args:
        model: A model from `schema`, or any other pydantic model.
        values: The options in the recipe.
        key: The path of the options' table, for problems.
        beside: Other keys of the same table, which an unknown option may be a misspelling of.

    Returns:
        All options with their defaults (empty when there are problems), and every problem.
    """
    problems = [*_dates(values, key), *lengths.written_twice(values, key)]
    reported = {place for problem in problems for place in (problem.key, problem.key[:-1])}
    try:
        instance = parsed(model, values)
    except ValidationError as error:
        more = [_problem(model, item, key, beside) for item in error.errors(include_url=False)]
        problems += [problem for problem in more if problem.key not in reported]
    if problems:
        return {}, problems
    return {name: getattr(instance, name) for name in type(instance).model_fields}, []


def parsed(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Return an instance of a model, validated strictly.

    Raises:
        ValidationError: The values do not match the model.
    """
    return model.model_validate_json(json.dumps(values, default=str), strict=True)


def _dates(value: Any, key: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a problem for each date or time: TOML has them, but no option takes one."""
    if isinstance(value, (date, time)):
        instead = f'no option takes one; for a string, write quotes: "{value}"'
        yield Problem(f"{key[-1]} = {value}: is a date or time", key, instead)
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for part, item in inner:
        yield from _dates(item, (*key, str(part)))


def _problem(model: type[BaseModel], item: Any, key: tuple[str, ...], beside: Iterable[str]) -> Problem:
    location = tuple(str(part) for part in item["loc"] if not _is_branch(part))
    name = location[-1] if location else ""
    where = (*key, *location)
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1]) + (list(beside) if len(location) == 1 else [])
        hint = closest(name, known)
        return Problem(f"unknown option '{name}'{hint}", where, "" if hint else f"known: {', '.join(known) or 'none'}")
    if item["type"] == "missing":
        return Problem(f"option '{name}' is missing", where, f"add {name} = ...")
    value = f"{name} = {_written(item['input'])}: " if name else ""  # a recipe as a whole is not written out
    return Problem(f"{value}{_message(item)}", where)


def _is_branch(part: object) -> bool:
    """Return whether a part of a location is a branch of a union rather than a key."""
    return isinstance(part, str) and (part.endswith("]") or part in {"bool", "int", "float", "str", "path", "none"})


def _fields_at(model: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    """Return the field names of the table at `location`; positions in lists and free keys are skipped."""
    for part in location:
        if part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside a type such as `dict[str, list[View]]`."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _message(item: Any) -> str:
    text = str(item["msg"])
    text = text.removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")
    return text[0].lower() + text[1:]


def _written(value: Any) -> str:
    """Format a value as in a recipe, shortened to 80 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
