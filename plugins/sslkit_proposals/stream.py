"""Read one array from a JSON file of any size, element by element, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sslkit.errors import DataError

BLOCK = 1 << 20
"""Number of characters to read at once."""

LONGEST = 1 << 26
"""Maximum number of characters of one element."""

UNFINISHED = ("", ".", "e", "E")
"""Characters after a number that may continue it: the end of the window, a fraction or an exponent."""


def elements(path: Path, key: str, block: int = BLOCK) -> Iterator[Any]:
    """Yield the elements of the array that a file's outermost object holds under `key`.

    Members before it are skipped without being stored; the rest of the file is not read.

    Raises:
        DataError: The file cannot be read, has no such array, or is truncated.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _JsonWindow(path, file, block).member(key)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


class _JsonWindow:
    """A window that moves over a JSON file."""

    def __init__(self, path: Path, file: IO[str], block: int) -> None:
        self.path, self.file, self.block = path, file, block
        self.text, self.position, self.discarded = "", 0, 0
        self.decode = json.JSONDecoder().raw_decode

    def member(self, key: str) -> Iterator[Any]:
        """Yield the elements of the array under `key`."""
        self.expect("{")
        names = []
        while self.peek() != "}":
            name = self.value()
            self.expect(":")
            if name == key:
                yield from self.array()
                return
            names.append(name)
            self.skip()
            if self.peek() == ",":
                self.position += 1
        raise DataError(f"{self.path} has no array '{key}', only {', '.join(map(repr, names)) or 'an empty object'}")

    def array(self) -> Iterator[Any]:
        """Yield elements up to the closing bracket."""
        self.expect("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.expect(",")
        self.position += 1

    def skip(self) -> None:
        """Skip a value; an array is skipped element by element."""
        if self.peek() == "[":
            for _ in self.array():
                pass
        else:
            self.value()

    def value(self) -> Any:
        """Decode the next value, reading on while it touches the end of the window: a number might continue."""
        self.peek()
        size = self.block
        while True:
            result = self.try_decode()
            if result is not None and self.text[result[1] : result[1] + 1] not in UNFINISHED:
                break
            if len(self.text) - self.position > LONGEST:
                raise self.error("a shorter JSON value")
            if not self.read(size):
                break
            size *= 2
        if result is None:
            raise self.error("a whole JSON value")
        self.position = result[1]
        return result[0]

    def try_decode(self) -> tuple[Any, int] | None:
        """Decode the next value and return it with its end; return None if the window does not hold all of it."""
        try:
            return self.decode(self.text, self.position)
        except json.JSONDecodeError:
            return None
        except RecursionError:
            raise self.error("a flatter JSON value") from None

    def expect(self, char: str) -> None:
        """Skip one expected character."""
        if self.peek() != char:
            raise self.error(f"'{char}'")
        self.position += 1

    def peek(self) -> str:
        """Return the next character that is not white space, without skipping it."""
        while True:
            while self.position < len(self.text) and self.text[self.position].isspace():
                self.position += 1
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.read(self.block):
                raise self.error("more text")

    def read(self, size: int) -> bool:
        """Discard the text before the position and read on; return False at the end of the file."""
        piece = self.file.read(size)
        self.discarded += self.position
        self.text, self.position = self.text[self.position :] + piece, 0
        return bool(piece)

    def error(self, expected: str) -> DataError:
        """Return the error for the text at the position."""
        actual = (
            repr(self.text[self.position : self.position + 40])
            if self.position < len(self.text)
            else "the end of the file"
        )
        return DataError(
            f"{self.path}: {expected} expected at character {self.discarded + self.position}, found {actual}"
        )
