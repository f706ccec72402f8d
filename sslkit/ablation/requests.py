"""The arms that a user requests, as the words of the command line, and how to parse these words."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sslkit.planning.recipe_file import parse_value

_CHANGE_FLAGS = {"--drop", "--add", "--swap", "--set"}
"""Options that can be combined in one `--arm`."""


@dataclass(frozen=True)
class ArmRequests:
    """The options of `sslkit ablate` that request arms, verbatim.

    Attributes:
        drop: Each "NAME" or "NAME,NAME" is an arm without these objectives.
        add: Each "NAME" or "NAME={...}" is an arm with one more objective.
        swap: Each "A=B" is an arm with B in place of A: an objective, or a table such as the sampler.
        vary: Each "KEY=VALUE,VALUE" is one arm per value.
        arm: Each "NAME: --drop A,B --swap C=D --set KEY=VALUE" is one arm with all of these changes.
        drop_each: One arm without each objective.
        factorial: Every non-empty subset of the objectives.
    """

    drop: Sequence[str] = ()
    add: Sequence[str] = ()
    swap: Sequence[str] = ()
    vary: Sequence[str] = ()
    arm: Sequence[str] = ()
    drop_each: bool = False
    factorial: bool = False


def split_assignment(words: str) -> tuple[tuple[str, ...], str] | None:
    """Split "a.b.c=TEXT" into the parts of the key and the text; return None if there is no "=" or no key."""
    key, equals, text = words.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    return (path, text) if equals and all(path) else None


def parse_values(text: str) -> list[Any]:
    """Parse values separated by commas; strings need no quotes."""
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        return [parse_value(part.strip()) for part in text.split(",")]
    return values


def parse_changes(text: str) -> list[tuple[str, str]]:
    """Parse "--drop A --swap B=C" into pairs of an option and its value; return an empty list for anything else."""
    try:
        words = shlex.split(text)
    except ValueError:
        return []
    flags, values = words[::2], words[1::2]
    if len(flags) != len(values) or not set(flags) <= _CHANGE_FLAGS:
        return []
    return list(zip(flags, values, strict=True))
