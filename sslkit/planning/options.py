"""The constructor is the option schema: from one signature to a validator and a JSON schema.

Left of `*` is wiring, right of `*` is what a recipe may set.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from sslkit.errors import Problem, closest

Model = TypeVar("Model", bound=BaseModel)
_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False)


def schema(maker: Any) -> type[BaseModel]:
    """Return the pydantic model of a class's or function's keyword-only parameters.

    Raises:
        TypeError: A parameter right of `*` has no annotation.
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
    return create_model(maker.__name__, __config__=_STRICT, **fields)


def validate(
    model: type[BaseModel], given: Mapping[str, Any], key: tuple[str, ...], beside: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Check options against their model, strictly: `"4"` is no number, `1.5` is no integer.

    Args:
        model: From `schema`, or any pydantic model.
        given: What the recipe says.
        key: Where it says it, for the problems.
        beside: Keys of the same table that are read elsewhere: what an unknown option may have meant.

    Returns:
        All options with defaults filled in (empty when there are problems), and every problem.
    """
    problems = list(_dates(given, key))
    of_dates = [problem.key for problem in problems]
    try:
        checked = parsed(model, given)
    except ValidationError as error:
        found = [_problem(model, item, key, beside) for item in error.errors(include_url=False)]
        problems += [problem for problem in found if problem.key not in of_dates]
    if problems:
        return {}, problems
    return {name: getattr(checked, name) for name in type(checked).model_fields}, []


def parsed(model: type[Model], given: Mapping[str, Any]) -> Model:
    """Make a model of what a recipe says, strictly.

    Raises:
        ValidationError: It does not fit.
    """
    return model.model_validate_json(json.dumps(given, default=str), strict=True)


def _dates(value: Any, key: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a problem for each date and time, which TOML has and no option takes."""
    if isinstance(value, (date, time)):
        instead = f'no option takes one; a text has quotes: "{value}"'
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
    return Problem(f"{name} = {_written(item['input'])}: {_message(item)}", where)


def _is_branch(part: object) -> bool:
    """Say whether a location part names a branch of a union rather than a key."""
    return isinstance(part, str) and (part.endswith("]") or part in {"bool", "int", "float", "str", "path", "none"})


def _fields_at(model: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    """Return the field names of the table at `location`; places in lists and free keys are passed over."""
    for part in location:
        if part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside a type, as in `dict[str, list[View]]`."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _message(item: Any) -> str:
    text = str(item["msg"])
    text = text.removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")
    return text[0].lower() + text[1:]


def _written(value: Any) -> str:
    """Write a value as a recipe would."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
