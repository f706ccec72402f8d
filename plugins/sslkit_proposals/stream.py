"""One array out of a JSON file of any size, element by element, with a bounded piece of text in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sslkit.errors import DataError

BLOCK = 1 << 20
"""Characters read at a time."""

LONGEST = 1 << 26
"""Characters that one element may have."""

UNFINISHED = ("", ".", "e", "E")
"""What a number in front of this may go on with: the window's end, a fraction or an exponent."""


def elements(path: Path, key: str, block: int = BLOCK) -> Iterator[Any]:
    """Yield the elements of the array that a file's outermost object holds under `key`.

    Members before it are skipped without being kept; what follows is not read.

    Raises:
        DataError: The file is not there, is not such an object, or ends too early.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _Text(path, file, block).member(key)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


class _Text:
    """A window that moves over a file."""

    def __init__(self, path: Path, file: IO[str], block: int) -> None:
        self.path, self.file, self.block = path, file, block
        self.text, self.at, self.before = "", 0, 0
        self.decode = json.JSONDecoder().raw_decode

    def member(self, key: str) -> Iterator[Any]:
        """Yield the elements of the array under `key`."""
        self.expect("{")
        seen = []
        while self.peek() != "}":
            name = self.value()
            self.expect(":")
            if name == key:
                yield from self.array()
                return
            seen.append(name)
            self.skip()
            if self.peek() == ",":
                self.at += 1
        raise DataError(f"{self.path} has no array '{key}', only {', '.join(map(repr, seen)) or 'an empty object'}")

    def array(self) -> Iterator[Any]:
        """Yield elements up to the closing bracket."""
        self.expect("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.expect(",")
        self.at += 1

    def skip(self) -> None:
        """Pass over a value; an array goes by element by element."""
        if self.peek() == "[":
            for _ in self.array():
                pass
        else:
            self.value()

    def value(self) -> Any:
        """Decode the next value, which must not reach the window's end: a number might go on behind it."""
        self.peek()
        more = self.block
        while True:
            found = self.attempt()
            if found is not None and self.text[found[1] : found[1] + 1] not in UNFINISHED:
                break
            if len(self.text) - self.at > LONGEST:
                raise self.wrong("a shorter JSON value")
            if not self.read(more):
                break
            more *= 2
        if found is None:
            raise self.wrong("a whole JSON value")
        self.at += found[1] - self.at
        return found[0]

    def attempt(self) -> tuple[Any, int] | None:
        """Decode the next value, and say where it ends; None when the window does not hold it all."""
        try:
            return self.decode(self.text, self.at)
        except json.JSONDecodeError:
            return None
        except RecursionError:
            raise self.wrong("a flatter JSON value") from None

    def expect(self, char: str) -> None:
        """Pass over one character."""
        if self.peek() != char:
            raise self.wrong(f"'{char}'")
        self.at += 1

    def peek(self) -> str:
        """Return the next character that is not white space, without passing over it."""
        while True:
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.read(self.block):
                raise self.wrong("more")

    def read(self, size: int) -> bool:
        """Drop what was passed over and read on; say whether there was something."""
        piece = self.file.read(size)
        self.before += self.at
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)

    def wrong(self, expected: str) -> DataError:
        """Return the error for what comes next."""
        found = repr(self.text[self.at : self.at + 40]) if self.at < len(self.text) else "the end of the file"
        return DataError(f"{self.path}: {expected} expected at character {self.before + self.at}, found {found}")
