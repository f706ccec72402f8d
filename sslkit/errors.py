"""Errors and their exit codes.

    SslkitError           1  the run failed
    ├── StorageError      1  a file cannot be written: the disk is full, or the folder is not writable
    ├── PeerError         *  another rank of the run died; the code is that rank's
    ├── UsageError        2  the command line asks for something impossible
    ├── RecipeError       3  the recipe has problems (all of them, at once)
    ├── PluginError       4  a plugin is missing, broken or ambiguous
    ├── DataError         5  images, proposals or labels are missing or unreadable
    ├── DivergedError     6  a loss or gradient is not finite, or the features collapsed
    └── PreemptedError   75  stopped from outside; the same command resumes the run

Commands and notebooks show the message of these errors alone, without a traceback. `SslkitWarning` is for what a
command goes on without; commands show it as one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A single problem: what is wrong, where, and what to write instead.

    Attributes:
        what: What is wrong, with the actual value.
        key: Path of keys in the recipe, outermost first; empty for the recipe as a whole.
        instead: What to do or write; may be empty.
        kind: "recipe", "plugin" or "data"; decides the exit code.
        also: Paths of the other keys that the problem involves, whose places are named, too.
        meant: The path of the key that a misspelt one seems to stand for: that it is missing is no problem of its own.
    """

    what: str
    key: tuple[str, ...] = ()
    instead: str = ""
    kind: str = "recipe"
    also: tuple[tuple[str, ...], ...] = ()
    meant: tuple[str, ...] = ()


class SslkitError(Exception):
    """A failure that a message explains to the user; the message may span several lines."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class StorageError(SslkitError):
    """A file cannot be written; an earlier version of it is unchanged."""


class PeerError(SslkitError):
    """Another rank of the run died; `exit_code` is that rank's, or 1 if it had none."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(SslkitError):
    """The command line asks for something impossible."""

    exit_code = 2


class RecipeError(SslkitError):
    """The recipe has problems, all of which are in `problems`.

    The message lists them with file and line where they are known.
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
    """The run was stopped from outside; the same command resumes it."""

    exit_code = 75


class SslkitWarning(UserWarning):
    """Something that a run goes on without, such as a cache; the message says why, and what it means."""


def closest(word: str, known: Iterable[str]) -> str:
    """Return ": did you mean 'x'?" for the closest match in `known`, or an empty string."""
    match = close_match(word, known)
    return "" if match is None else f": did you mean '{match}'?"


def close_match(word: str, known: Iterable[str]) -> str | None:
    """Return the closest match in `known`, or None if there is none."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch found no memory, on a device or the CPU; it may show in code that takes little.

    Told without importing torch, which raises a plain `RuntimeError` on the CPU.
    """
    kinds = {cls.__name__ for cls in type(error).__mro__ if cls.__module__.startswith("torch")}
    if "OutOfMemoryError" in kinds:
        return True
    text = {"AcceleratorError": "out of memory", "RuntimeError": "DefaultCPUAllocator: "}.get(type(error).__name__)
    return text is not None and text in str(error)
