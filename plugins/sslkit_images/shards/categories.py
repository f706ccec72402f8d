"""The names of labels, one per line of `categories.txt`. What is written is read again as the same names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sslkit_images.folder import read_file, read_lines
from sslkit_images.problems import Problems, short

CATEGORIES = "categories.txt"
"""File in the folder of the tars with the names of the labels, one per line."""
_MARK = "\ufeff"
"""A byte order mark: readers drop it at the start of a file."""


def read_categories(file: Path) -> tuple[str, ...]:
    """Read names of labels.

    Raises:
        DataError: The file cannot be read, is no text, or its lines are not one name each.
    """
    names, data = read_lines(file), read_file(file).replace(b"\r\n", b"\n")
    problems = Problems()
    if not data:
        problems.add("it is empty: write one name per line, in the order of the labels")
    elif b"\r" in data and b"\n" in data and _is_utf8(data):
        problems.add("it has line ends of two kinds, so that its lines cannot be counted: save it with one kind")
    else:
        _check(names, problems, "line")
    problems.raise_if_any(f"{file} cannot be used:")
    return names


def encode_categories(names: Sequence[str]) -> bytes:
    """Return the contents of the file.

    Raises:
        DataError: A name cannot be a line of its own.
    """
    problems = Problems()
    _check(names, problems, "category")
    problems.raise_if_any(f"categories cannot be written to {CATEGORIES}, one per line; rename them:")
    return "".join(f"{name}\n" for name in names).encode()


def _check(names: Sequence[str], problems: Problems, unit: str) -> None:
    """Add each name that is no line of text, or is not the only one of its kind."""
    first = 1 if unit == "line" else 0
    places: dict[str, int] = {}
    for place, name in enumerate(names, first):
        shown = f"{unit} {place} is {short(name)}"
        if not name.strip():
            problems.add("names are blank", shown)
        elif name.splitlines() != [name]:
            problems.add("names have a line break in them", shown)
        elif not _is_utf8(name) or name.startswith(_MARK):
            problems.add("names are not valid text", shown)
        elif places.setdefault(name, place) != place:
            problems.add("names occur twice", f"{shown} like {unit} {places[name]}")


def _is_utf8(text: str | bytes) -> bool:
    try:
        text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True
