"""A recipe as it was written: read it, apply `--set` overrides, find line numbers and check its structure.

Nothing here needs torch.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslkit.errors import Problem, RecipeError, UsageError, closest
from sslkit.planning.options import parsed, validate
from sslkit.planning.recipe import Recipe


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it was written: parsed values, and where each stands.

    Attributes:
        name: File name without its suffix; names the run folder.
        origin: The path, for messages.
        values: The parsed TOML with overrides applied.
        lines: Key path -> line number, from 1.
        overrides: Each `--set` as given, with its key path.
    """

    name: str
    origin: str
    values: dict[str, Any]
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    overrides: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def arguments(self) -> str:
        """What to write behind a command to get this recipe again, with its overrides."""
        sets = (part for item in self.overrides.values() for part in ("--set", item))
        return shlex.join([self.origin, *sets])

    def where(self, key: tuple[str, ...]) -> str:
        """Say where a key was written: the file and line, or the `--set` that wrote it."""
        for size in range(len(key), 0, -1):
            if key[:size] in self.overrides:
                return f"--set {self.overrides[key[:size]]}"
            if line := self._line(key[:size]):
                return f"{self.origin}:{line}"
        return self.origin

    def _line(self, key: tuple[str, ...]) -> int | None:
        """Return where a key stands; where only keys below it are written, as in `[heads.main]`, the first of them."""
        return self.lines.get(key) or min(
            (line for path, line in self.lines.items() if path[: len(key)] == key), default=None
        )


def read(path: Path, sets: Sequence[str] = ()) -> RecipeFile:
    """Read a recipe file and apply `--set key.path=value` overrides.

    Raises:
        RecipeError: It is no valid TOML, or cannot be read.
        UsageError: An override has no `=`, or its path leads through something that is no table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    return parse(text, path.stem, str(path), sets)


def parse(text: str, name: str, origin: str, sets: Sequence[str] = ()) -> RecipeFile:
    """Parse a recipe's text; see `read`."""
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # of which TOMLDecodeError is one; a number of thousands of digits raises another
        raise RecipeError(f"{origin} is no valid TOML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{origin} cannot be read: lists or tables are nested too deeply") from None
    overrides = dict(_override(values, item) for item in sets)
    return RecipeFile(name, origin, values, line_index(text), overrides)


def check_structure(text: RecipeFile) -> tuple[Recipe | None, list[Problem]]:
    """Check keys, types and ranges of everything that the core itself knows."""
    _, problems = validate(Recipe, text.values, ())
    return (None, problems) if problems else (parsed(Recipe, text.values), [])


def format_problems(text: RecipeFile, problems: Iterable[Problem]) -> str:
    """Write problems as a person reads them: one each, with its place and what to write instead."""
    return "\n".join(_line(text, problem) for problem in problems)


def _line(text: RecipeFile, problem: Problem) -> str:
    table = ".".join(problem.key)
    place = f"{text.where(problem.key)}: " + (f"[{table}] " if table else "")
    return f"{place}{problem.what}" + (f"\n    {problem.instead}" if problem.instead else "")


# ---------------------------------------------------------------------------------------------- overrides


def _override(values: dict[str, Any], item: str) -> tuple[tuple[str, ...], str]:
    key, equals, written = item.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise UsageError(f"--set {item}: write --set key.path=value, such as --set optimizer.base_lr=0.1")
    set_value(values, path, parse_value(written), f"--set {item}")
    return path, item


def parse_value(written: str) -> Any:
    """Read a TOML value; what is none is a plain string, so that quotes are not needed in a shell."""
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        return written


def set_value(values: dict[str, Any], path: tuple[str, ...], value: Any, option: str) -> None:
    """Set the value at a path of keys, making tables on the way; `option` is what that asks for it.

    Raises:
        UsageError: The path leads through something that is no table, or to no element of a list.
    """
    place: Any = values
    for part in path[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else _element(place, part, option)
    if isinstance(place, dict):
        place[path[-1]] = value
    else:
        _element(place, path[-1], option)
        place[int(path[-1])] = value


def _element(place: Any, part: str, option: str) -> Any:
    if not isinstance(place, list):
        raise UsageError(f"{option}: there is no table at '{part}', but the value {place!r}")
    if not part.isdecimal() or int(part) >= len(place):
        raise UsageError(f"{option}: '{part}' must be one of 0 to {len(place) - 1}, the place in the list")
    return place[int(part)]


# ------------------------------------------------------------------------------------------- line numbers

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def line_index(text: str) -> dict[tuple[str, ...], int]:
    """Map key paths to line numbers; elements of `[[tables]]` are counted: ("augment", "scene", "0", "flip")."""
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

_BESIDE = Path(__file__).parent.parent.parent
_SHIPPED = _BESIDE / ("recipes" if (_BESIDE / "pyproject.toml").exists() else "sslkit_recipes")
"""In a checkout the folder itself; installed, the wheel's copy beside the package."""


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that came with sslkit: name -> file, from the wheel or, in a checkout, from `recipes/`."""
    return {file.relative_to(_SHIPPED).with_suffix("").as_posix(): file for file in sorted(_SHIPPED.rglob("*.toml"))}


def locate(name: str, known: Mapping[str, Path]) -> Path:
    """Find a recipe by path, or by name among `known`.

    Raises:
        RecipeError: There is none; close matches are named.
    """
    path = Path(name)
    if path.is_file():
        return path
    for candidate in (name, name.removesuffix(".toml"), path.stem):
        short = [id_ for id_ in known if id_.rpartition("/")[2] == candidate]
        if candidate in known or len(short) == 1:
            return known[candidate if candidate in known else short[0]]
    hint = closest(path.stem, known) or f"; known: {', '.join(sorted(known))}"
    raise RecipeError(f"there is no recipe file or recipe named '{name}'{hint}")
