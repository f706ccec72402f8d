"""Lengths in epochs or in steps: `epochs` or `steps`, `warmup_epochs` or `warmup_steps`, `queue_epoch` or `queue_step`.

Two keys of one table that differ in this word alone are two ways to write one length. A recipe writes one of them, and
an override of one takes the place of the other. The option in steps is None by default, and then the one in epochs
holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sslkit.errors import Problem

_IN_STEPS = {"epochs": "steps", "epoch": "step"}
_IN_EPOCHS = {word: other for other, word in _IN_STEPS.items()}


def in_steps(key: str) -> str | None:
    """Return the key that writes the same length in steps; None if `key` is no length in epochs."""
    return _with_last_word(key, _IN_STEPS)


def other_unit(key: str) -> str | None:
    """Return the key that writes the same length in the other unit; None if `key` is no length."""
    return _with_last_word(key, _IN_STEPS | _IN_EPOCHS)


def _with_last_word(key: str, words: Mapping[str, str]) -> str | None:
    start, mark, last = key.rpartition("_")
    return f"{start}{mark}{words[last]}" if last in words else None


def pairs(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Return (key in epochs, key in steps) for each length that these keys write in both units."""
    keys = list(keys)
    return [(key, other) for key in keys if (other := in_steps(key)) in keys and other]


def written_twice(values: Any, key: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a problem for each length that a recipe writes in both units, in any table."""
    if isinstance(values, Mapping):
        for epochs, steps in pairs(name for name, value in values.items() if not isinstance(value, Mapping)):
            what = f"{steps} = {values[steps]}: the same length is written as {epochs} = {values[epochs]}"
            instead = f"write exactly one of {epochs} = ... and {steps} = ..."
            yield Problem(what, (*key, steps), instead, also=((*key, epochs),))
    inner = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for part, value in inner:
        yield from written_twice(value, (*key, str(part)))


def drop_other_unit(table: dict[str, Any], key: str) -> str | None:
    """Remove the key that writes the length of `key` in the other unit, if there is one, and return it."""
    other = other_unit(key)
    if other is None or other not in table or isinstance(table[other], Mapping):
        return None
    del table[other]
    return other


def written_once(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return validated options without lengths in epochs where the same is written in steps."""
    unread = [epochs for epochs, steps in pairs(options) if options[steps] is not None]
    return {key: value for key, value in options.items() if key not in unread}
