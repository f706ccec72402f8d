"""What can go wrong, and the exit code that says so.

    SslkitError           1  the run failed
    ├── StorageError      1  a file cannot be written: the disk is full, or the folder not ours
    ├── PeerError         *  another process of the run died; the code is that one's
    ├── UsageError        2  the command line asks for something that cannot be
    ├── RecipeError       3  the recipe has problems (all of them, at once)
    ├── PluginError       4  a plugin is missing, broken or ambiguous
    ├── DataError         5  images, proposals or labels are missing or unreadable
    ├── DivergedError     6  a loss or gradient is not finite, or the features collapsed
    └── PreemptedError   75  stopped from outside; the same command goes on

None of them is shown with a traceback: the message is the product.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and what to write instead.

    Attributes:
        what: The fault, with the actual value in it.
        key: Path of keys inside the recipe, outermost first; empty when it is about the whole.
        instead: What to do or write, or an empty string.
        kind: "recipe", "plugin" or "data": decides the exit code.
    """

    what: str
    key: tuple[str, ...] = ()
    instead: str = ""
    kind: str = "recipe"


class SslkitError(Exception):
    """A failure that is told to the user in words; the message may run over several lines."""

    exit_code = 1


class StorageError(SslkitError):
    """A file cannot be written; what was there before is as it was."""


class PeerError(SslkitError):
    """Another process of the run died; `exit_code` is its own, or 1 where it had none."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(SslkitError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class RecipeError(SslkitError):
    """The recipe has problems; `problems` holds every one of them.

    The message is written when the error is raised, with file and line where they are known.
    """

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class PluginError(SslkitError):
    """A plugin is missing, broken or ambiguous."""

    exit_code = 4


class DataError(SslkitError):
    """Images, proposals or labels are missing or unreadable."""

    exit_code = 5


class DivergedError(SslkitError):
    """A loss or a gradient is not finite, or the features have collapsed."""

    exit_code = 6


class PreemptedError(SslkitError):
    """The run was stopped from outside and can be resumed by the same command."""

    exit_code = 75


def closest(word: str, known: Iterable[str]) -> str:
    """Return ": did you mean 'x'?" for a close match among `known`, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean '{matches[0]}'?" if matches else ""
