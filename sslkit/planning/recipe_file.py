"""Recipes as they were written: read a file, apply `--set` overrides, check its structure, and find line numbers.

Nothing here needs torch.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslkit.errors import Problem, RecipeError, UsageError, closest
from sslkit.files import EncodingError, read_text
from sslkit.foreign import lengths
from sslkit.planning import toml
from sslkit.planning.options import parsed, validate
from sslkit.planning.recipe import NO_LENGTH, Recipe


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it was written: its parsed values and where each of them was set.

    Attributes:
        name: The file's name without its suffix; names the run's folder.
        origin: The path, for messages.
        values: The parsed TOML, with overrides applied.
        lines: Key path -> line number, from 1.
        overrides: Key path -> the `--set` that wrote it.
    """

    name: str
    origin: str
    values: dict[str, Any]
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    overrides: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def __repr__(self) -> str:
        changes = "".join(f", {item}" for item in self.overrides.values())
        return f"RecipeFile({self.name} in {self.origin}{changes})"

    @property
    def arguments(self) -> str:
        """The command-line arguments that name this recipe, with its overrides."""
        sets = (part for item in self.overrides.values() for part in ("--set", item))
        return shlex.join([self.origin, *sets])

    def where(self, key: tuple[str, ...]) -> str:
        """Return where a key was written: the file and line, or the `--set` that wrote it."""
        parts = [key[:size] for size in range(len(key), 0, -1)]
        for part in parts:  # before any line: an override takes the place of all that its key held
            if part in self.overrides:
                return f"--set {self.overrides[part]}"
        for part in parts:
            if line := self._line(part):
                return f"{self.origin}:{line}"
        return self.origin

    def places(self, problem: Problem) -> list[str]:
        """Return where the keys of a problem were written, each place once; other keys than the first may be absent."""
        keys = [problem.key, *(key for key in problem.also if self._writes(key))]
        return list(dict.fromkeys(map(self.where, keys)))

    def _writes(self, key: tuple[str, ...]) -> bool:
        value: Any = self.values
        for part in key:
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True

    def _line(self, key: tuple[str, ...]) -> int | None:
        """Return the line of a key, or of the first key below it: `heads` is at `[heads.main]`."""
        return self.lines.get(key) or min(
            (line for path, line in self.lines.items() if path[: len(key)] == key), default=None
        )


def read(path: Path, sets: Sequence[str] = ()) -> RecipeFile:
    """Read a recipe file and apply `--set key.path=value` overrides.

    Raises:
        RecipeError: The file cannot be read, or is not valid TOML.
        UsageError: An override has no `=`, or its path leads through a value that is not a table.
    """
    return parse(text_of(path), path.stem, str(path), sets)


def text_of(path: Path) -> str:
    """Return the text of a recipe file.

    Raises:
        RecipeError: The file cannot be read, or is no text.
    """
    try:
        return read_text(path)
    except (OSError, EncodingError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None


def parse(text: str, name: str, origin: str, sets: Sequence[str] = ()) -> RecipeFile:
    """Parse the text of a recipe; see `read`."""
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or another error for a number with thousands of digits
        raise RecipeError(f"{origin} is not valid TOML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{origin} cannot be read: lists or tables are nested too deeply") from None
    overrides: dict[tuple[str, ...], str] = {}
    for item in sets:
        path, replaced = _override(values, item)
        overrides.pop((*path[:-1], replaced), None)
        overrides[path] = item
    return RecipeFile(name, origin, values, line_index(text), overrides)


def check_structure(recipe_file: RecipeFile) -> tuple[Recipe | None, list[Problem]]:
    """Check the keys, types and ranges of all tables of the core; return the recipe, or None and every problem."""
    _, problems = validate(Recipe, recipe_file.values, ())
    if problems and not {"epochs", "steps"} & recipe_file.values.keys():  # pydantic asks only where all else is right
        told = any(not problem.key or problem.meant in (("epochs",), ("steps",)) for problem in problems)
        problems += [] if told else [Problem(NO_LENGTH)]
    return (None, problems) if problems else (parsed(Recipe, recipe_file.values), [])


def format_problems(recipe_file: RecipeFile, problems: Iterable[Problem]) -> str:
    """Write problems for the user: each with its place, what is wrong and what to write instead."""
    return "\n".join(_format(recipe_file, problem) for problem in problems)


def _format(recipe_file: RecipeFile, problem: Problem) -> str:
    table = ".".join(problem.key)
    place = f"{' and '.join(recipe_file.places(problem))}: " + (f"[{table}] " if table else "")
    return f"{place}{problem.what}" + (f"\n    {problem.instead}" if problem.instead else "")


# ---------------------------------------------------------------------------------------------- overrides


def _override(values: dict[str, Any], item: str) -> tuple[tuple[str, ...], str]:
    """Apply `key.path=value`; return the path and the key that it took the place of, if any."""
    key, equals, written = item.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not item.isascii() and item.encode(errors="replace").decode() != item:
        raise UsageError(
            f"--set {item}: it holds bytes that are not UTF-8, which no recipe can: rename the file or folder"
        )
    if not equals or not all(path):
        raise UsageError(f"--set {item}: write --set key.path=value, such as --set optimizer.base_lr=0.1")
    return path, set_value(values, path, parse_value(written), f"--set {item}")


def write_overrides(values: Mapping[str, Any] | None) -> list[str]:
    """Write Python values as `key.path=value`, as after `--set`.

    Raises:
        UsageError: These are not values by dotted key, or TOML has no such value.
    """
    values = {} if values is None else values
    if not hasattr(values, "items"):
        raise UsageError(f'set = {values!r}: write keys and values, such as {{"optimizer.base_lr": 0.1}}')
    for key in values:
        if not key or "=" in str(key):
            raise UsageError(f'set: {key!r} is not a dotted key, such as "optimizer.base_lr"')
    return [f"{key}={toml.inline(toml.plain(value, key))}" for key, value in values.items()]


def parse_value(written: str) -> Any:
    """Parse a TOML value; anything else is a plain string, so that a shell needs no quotes."""
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        return written


def set_value(values: dict[str, Any], path: tuple[str, ...], value: Any, option: str) -> str:
    """Set the value at a path of keys, and make the tables on the way.

    A length in steps takes the place of the same one in epochs, and the reverse; a constant target momentum takes the
    place of its end.

    Args:
        values: Parsed TOML, changed in place.
        path: The keys, outermost first.
        value: The value to set.
        option: The command-line option that asks for it, for messages.

    Returns:
        The key of the same table that was removed, or an empty string.

    Raises:
        UsageError: The path leads through a value that is not a table, or to an element that a list does not have.
    """
    table: Any = values
    for part in path[:-1]:
        table = table.setdefault(part, {}) if isinstance(table, dict) else _element(table, part, option)
    if not isinstance(table, dict):
        _element(table, path[-1], option)
        table[int(path[-1])] = value
        return ""
    table[path[-1]] = value
    if path == ("target", "schedule") and value == "constant":
        return "momentum_end" if table.pop("momentum_end", None) is not None else ""
    return lengths.drop_other_unit(table, path[-1]) or ""


def _element(elements: Any, part: str, option: str) -> Any:
    if not isinstance(elements, list):
        raise UsageError(f"{option}: '{part}' cannot be set in {elements!r}, which is not a table")
    if not part.isdecimal() or int(part) >= len(elements):
        raise UsageError(f"{option}: '{part}' must be one of 0 to {len(elements) - 1}, a position in the list")
    return elements[int(part)]


# ------------------------------------------------------------------------------------------- line numbers

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def line_index(text: str) -> dict[tuple[str, ...], int]:
    """Map key paths to line numbers; elements of `[[tables]]` are numbered: ("augment", "scene", "0", "flip")."""
    index: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
            index.setdefault(table, number)
        elif key := _KEY.match(line):
            index.setdefault((*table, *_parts(key[1])), number)
    return index


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", dotted))


# ------------------------------------------------------------------------------------------ finding recipes

_INSTALLED_IN = Path(__file__).parent.parent.parent
_SHIPPED = _INSTALLED_IN / ("recipes" if (_INSTALLED_IN / "pyproject.toml").exists() else "sslkit_recipes")
"""In a checkout, the folder `recipes`; in an installation, the wheel's copy next to the package."""


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes shipped with sslkit: name -> file."""
    return {file.relative_to(_SHIPPED).with_suffix("").as_posix(): file for file in sorted(_SHIPPED.rglob("*.toml"))}


def locate(name: str, known: Mapping[str, Path]) -> Path:
    """Find a recipe by path, or by name or short name in `known`; those shipped with sslkit come first.

    Raises:
        RecipeError: No such recipe was found, and the message names a close match; or several plugins ship it.
    """
    path = Path(name)
    if os.path.isfile(name):  # noqa: PTH113 - Path.is_file() fails for a name that is too long
        return path
    own = {id_: known[id_] for id_ in shipped_recipes() if id_ in known}
    for candidate in (name, name.removesuffix(".toml"), path.stem):
        for recipes in (own, known):
            short = [id_ for id_ in recipes if id_.rpartition("/")[2] == candidate]
            if candidate in recipes or len(short) == 1:
                return recipes[candidate if candidate in recipes else short[0]]
            if short:
                raise RecipeError(f"several recipes are named '{candidate}': write {' or '.join(short)}")
    hint = closest(path.stem, known) or _known_recipes(path, known)
    raise RecipeError(f"no recipe file or recipe is named '{name}'{hint}")


def _known_recipes(path: Path, known: Iterable[str]) -> str:
    """Return a hint for a recipe that was not found and has no close match; a path needs no list of names."""
    if os.path.isdir(path):  # noqa: PTH112 - as above
        return "; it is a folder without recipe.toml, so it is not a run's folder"
    return "; `sslkit recipes` lists the names" if len(path.parts) > 1 else f"; known: {', '.join(sorted(known))}"
