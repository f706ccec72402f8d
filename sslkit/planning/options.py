"""Validate options against a schema, and say what is wrong in the words of a recipe."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sslkit.errors import Problem, close_match
from sslkit.foreign import lengths

Model = TypeVar("Model", bound=BaseModel)


def validate(
    model: type[BaseModel], values: Mapping[str, Any], key: tuple[str, ...], beside: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Validate options strictly: `"4"` is not a number, and `1.5` is not an integer.

    Args:
        model: A model from `foreign.signatures.schema`, or any other pydantic model.
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
        more = _problems(model, error, values, key, beside)
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


def _dates(value: Any, key: tuple[str, ...], name: str = "") -> Iterator[Problem]:
    """Yield a problem for each date or time: TOML has them, but no option takes one."""
    if isinstance(value, (date, time)):
        instead = f'no option takes one; for a string, write quotes: "{value}"'
        yield Problem(f"{name} = {value}: is a date or time", key, instead)
    if isinstance(value, Mapping):
        for part, item in value.items():
            yield from _dates(item, (*key, str(part)), str(part))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _dates(item, (*key, str(position)), f"{name}[{position}]")


@dataclass(frozen=True)
class _Place:
    """Where pydantic found something wrong.

    Attributes:
        parts: Keys and positions, outermost first.
        in_union: Whether it is what one branch of a union says.
    """

    parts: tuple[str | int, ...]
    in_union: bool

    @classmethod
    def of(cls, item: Any, values: Any) -> _Place:
        """Read a location, which also holds the names of branches: those are keys that the values do not have."""
        parts: list[str | int] = []
        last = len(item["loc"]) - 1
        for number, part in enumerate(item["loc"]):
            has = isinstance(part, int) or (isinstance(values, Mapping) and part in values)
            if has or (item["type"] == "missing" and number == last):
                parts.append(part)
                values = _inside(values, part)
        return cls(tuple(parts), len(parts) <= last and item["loc"][last] != "[key]")

    @property
    def name(self) -> str:
        """The last key with the positions after it, such as `lrs[0]`; nothing for the whole."""
        name = ""
        for part in self.parts:
            name = f"{name}[{part}]" if isinstance(part, int) else part
        return name

    @property
    def key(self) -> tuple[str, ...]:
        """The path in a recipe."""
        return tuple(map(str, self.parts))

    @property
    def parent(self) -> _Place:
        """The table or list that holds it."""
        return _Place(self.parts[:-1], self.in_union)


def _inside(values: Any, part: str | int) -> Any:
    try:
        return values[part]
    except (LookupError, TypeError):
        return None


def _problems(
    model: type[BaseModel], error: ValidationError, values: Any, key: tuple[str, ...], beside: Iterable[str]
) -> list[Problem]:
    """Return what is wrong, once for each key: what the branches of a union say about one value is one problem."""
    items = [(_Place.of(item, values), item) for item in error.errors(include_url=False)]
    inner = {place.key[:size] for place, _ in items if place.in_union for size in range(len(place.key))}
    found: dict[tuple[str, ...], Problem] = {}
    for place, item in items:
        if place.in_union and place.key in inner:  # another branch takes such a value, and names the part that is wrong
            continue
        problem = _problem(model, place, item, key, beside)
        first = found.get(problem.key)
        if first is None or item["type"] == "missing":  # of several missing items, the last one gives the number
            found[problem.key] = problem
        elif problem.what != first.what:
            found[problem.key] = Problem(f"{first.what}, or {_message(item)}", problem.key, first.instead)
    return list(found.values())


def _problem(model: type[BaseModel], place: _Place, item: Any, key: tuple[str, ...], beside: Iterable[str]) -> Problem:
    name, where = place.name, (*key, *place.key)
    known = _fields_at(model, place.key[:-1]) + (list(beside) if len(place.key) == 1 else [])
    if item["loc"][-1:] == ("[key]",):
        meant = (*where[:-1], re.sub("[^a-z0-9]+", "-", name.lower()).strip("-"))
        instead = "write lower-case letters, digits and hyphens, such as my-name"
        return Problem(f"'{name}' is not a name", where, instead, meant=meant)
    if item["type"] == "extra_forbidden":
        match = close_match(name, known)
        if match is None:
            return Problem(f"unknown option '{name}'", where, f"known: {', '.join(known) or 'none'}")
        return _misspelt(name, match, where[:-1])
    if item["type"] == "missing" and isinstance(place.parts[-1], int):
        what = f"{place.parent.name} = {_written(item['input'])}: must have {place.parts[-1] + 1} items"
        return Problem(what, where[:-1])
    if item["type"] == "missing":
        others = [other for other in item["input"] if other not in known] if isinstance(item["input"], dict) else []
        for other in others:
            if close_match(other, known) == name:
                return _misspelt(other, name, where[:-1])
        return Problem(f"option '{name}' is missing", where, f"add {name} = ...")
    value = f"{name} = {_written(item['input'])}: " if name else ""  # a recipe as a whole is not written out
    return Problem(f"{value}{_message(item)}", where)


def _misspelt(name: str, match: str, table: tuple[str, ...]) -> Problem:
    what = f"unknown option '{name}': did you mean '{match}'?"
    return Problem(what, (*table, name), meant=(*table, match))


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


_WORDS = {
    "an object": "a table", "a valid dictionary": "a table", "a valid array": "a list",
    " after validation": "", "Dictionary must": "must", "Tuple must": "must", "List must": "must",
    "at least 1 item, not 0": "at least 1 item", "should": "must",
}  # fmt: skip
"""pydantic's words -> those of a recipe."""


def _message(item: Any) -> str:
    text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text[0].lower() + text[1:]


def _written(value: Any) -> str:
    """Format a value as in a recipe, shortened to 80 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
