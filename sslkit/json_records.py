"""Read the records of a large JSON file one by one, so that a file of any size needs the memory of one record."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sslkit.files import EncodingError

LONGEST = 1 << 26
"""Characters of the longest value; one that never ends would take all memory."""
_SHOWN = 200
_CHUNK = 1 << 20
"""Characters that are read at a time."""
_SPACE = " \t\n\r"
_TAIL = 16
"""An error so close to the end of what has been read may come from a value that goes on after it."""
_EXPONENT = len("e-")
"""Characters after a number that may be the start of its exponent or fraction."""
_OPEN_STRING = "Unterminated string"


class Record(NamedTuple):
    """An element of an array.

    Attributes:
        key: The array's key in the file's object.
        position: The element's position in the array, from 0.
        value: The element.
    """

    key: str
    position: int
    value: Any


class JsonError(ValueError):
    """The file is not what is expected; the message says what, and where."""


def read_records(file: Path, keys: Collection[str], required: Collection[str] = ()) -> Iterator[Record]:
    """Yield the elements of the arrays under `keys` in the object that a JSON file holds, in the file's order.

    Other values are skipped.

    Args:
        file: The file.
        keys: The keys of the arrays.
        required: Those of the keys that must be there.

    Raises:
        OSError: The file cannot be read.
        EncodingError: It is not in UTF-8, or UTF-16 or UTF-32 as JSON has them.
        JsonError: It is not JSON, holds no object, lacks a key, or has one of `keys` twice or with something other than
            an array; or one of its values is implausibly long.
    """
    with file.open("rb") as binary:
        encoding = json.detect_encoding(binary.read(4))
    with file.open(encoding=encoding, newline="") as text:
        try:
            yield from _Reader(text).records(keys, required)
        except UnicodeDecodeError as error:
            raise EncodingError(
                f"it is not {encoding.removesuffix('-sig').upper()} text (byte 0x{error.object[error.start]:02x}): "
                "save the file as UTF-8"
            ) from None


class _Reader:
    """A window of text that moves through the file."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._window = ""
        self._at = 0
        self._lines = 0
        self._ended = False
        decoder: Any = json.JSONDecoder()
        self._scan = decoder.scan_once

    def records(self, keys: Collection[str], required: Collection[str]) -> Iterator[Record]:
        seen: dict[str, None] = {}
        for key in self._members():
            if key in seen and key in keys:
                raise JsonError(f"it has '{key}' twice")
            seen[key] = None
            array = self._peek() == "["
            if key in keys and not array:
                raise JsonError(f"'{key}' is not a list: {_shortened(self._value())}")
            if not array:
                self._value()
                continue
            for position, value in enumerate(self._elements()):
                if key in keys:
                    yield Record(key, position, value)
        if self._peek():
            raise self._error("there is more after the end of its object")
        if missing := [key for key in required if key not in seen]:
            only = ", ".join(map(repr, seen)) or "an empty object"
            raise JsonError(f"it has no '{missing[0]}', only {only if len(only) < _SHOWN else only[:_SHOWN] + '...'}")

    def _members(self) -> Iterator[str]:
        """Yield the keys of the object; the caller consumes each value before the next."""
        if self._peek() != "{":
            raise JsonError("it does not hold an object: {...}")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            key = self._value() if self._peek() == '"' else None
            if key is None:
                raise self._error("a key in double quotes is missing")
            self._expect(":")
            yield key
            if self._expect(",}") == "}":
                return

    def _elements(self) -> Iterator[Any]:
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            self._peek()
            yield self._value()
            if self._expect(",]") == "]":
                return

    def _expect(self, characters: str) -> str:
        found = self._peek()
        if not found or found not in characters:
            raise self._error(f"{' or '.join(map(repr, characters))} is missing")
        self._at += 1
        return found

    def _peek(self) -> str:
        """Return the next character that is no space, without consuming it; nothing at the end of the file."""
        while True:
            window, at = self._window, self._at
            while at < len(window) and window[at] in _SPACE:
                at += 1
            self._at = at
            if at < len(window):
                return window[at]
            if not self._extend():
                return ""

    def _value(self) -> Any:
        """Consume and return the value that begins here, reading on as long as it may not be complete."""
        while True:
            try:
                value, end = self._scan(self._window, self._at)
            except StopIteration as stop:
                place, reason = int(stop.value), "a value is missing or cannot be read"
            except json.JSONDecodeError as error:
                place = len(self._window) if error.msg.startswith(_OPEN_STRING) else error.pos
                reason = error.msg
            except RecursionError:
                raise self._error("a value is nested too deeply") from None
            except ValueError as error:  # a number of thousands of digits
                raise self._error(str(error)) from None
            else:
                if end < len(self._window) - _EXPONENT or not self._extend():
                    self._at = end
                    return value
                continue
            if len(self._window) - self._at > LONGEST:
                raise self._error(f"a value is longer than {LONGEST} characters")
            if place < len(self._window) - _TAIL or not self._extend():
                self._at = min(place, len(self._window))
                raise self._error(reason)

    def _extend(self) -> bool:
        """Read on, and drop what has been consumed; return False at the end of the file."""
        rest = self._window[self._at :]
        chunk = self._text.read(max(_CHUNK, len(rest)))
        if not chunk:
            return False
        self._lines += self._window.count("\n", 0, self._at)
        self._window, self._at = rest + chunk, 0
        return True

    def _error(self, reason: str) -> JsonError:
        line = self._lines + self._window.count("\n", 0, self._at) + 1
        before = self._window[max(0, self._at - 40) : self._at]
        return JsonError(f"line {line} is not valid JSON: {reason}, after {before!r}")


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
