"""Keep what code of a plugin does from the rest: its failures, however it raises them, and what it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress


def is_failure(error: BaseException) -> bool:
    """Return whether an exception says that code failed, and not that it was stopped from outside.

    `SystemExit` is a failure of whoever raises it. A Ctrl-C and the end of a generator come from outside.
    """
    return not isinstance(error, (KeyboardInterrupt, GeneratorExit))


@contextmanager
def isolated(report: Callable[[BaseException], object]) -> Iterator[None]:
    """Run code of a plugin; hand its failure to `report` and continue after the block."""
    try:
        yield
    except BaseException as error:
        if not is_failure(error):
            raise
        report(error)


def describe(error: BaseException) -> str:
    """Return an exception as its type and its message, such as `SystemExit: 3`."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as failure:  # an exception of a plugin may fail to write itself
        if not is_failure(failure):
            raise
        return f"{name}, which has no message that can be read"
    return f"{name}: {text}" if text else name


@contextmanager
def stdout_as_stderr() -> Iterator[Callable[[str], None]]:
    """Send to stderr what the block prints on stdout, which is for results: from Python, C and child processes.

    Yields:
        A function that writes a text to stdout all the same.
    """
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):
        _flush()
        kept = _replace_stdout()

        def write(text: str) -> None:
            if kept is not None:
                _flush()
                os.dup2(kept, 1)
            try:
                stdout.write(text)
                stdout.flush()
            finally:
                if kept is not None:
                    os.dup2(2, 1)

        try:
            yield write
        finally:
            if kept is not None:
                _flush()
                os.dup2(kept, 1)
                os.close(kept)


def _replace_stdout() -> int | None:
    """Let descriptor 1 be another 2, and return a copy of what it was; None where one of them is closed."""
    try:
        os.fstat(2)
        kept = os.dup(1)
    except OSError:
        return None
    os.dup2(2, 1)
    return kept


def _flush() -> None:
    """Write what the buffers of Python's and of C's stdout hold."""
    with suppress(OSError, ValueError, AttributeError):
        sys.__stdout__.flush()  # type: ignore[union-attr]
    with suppress(OSError, AttributeError, ImportError, TypeError):
        import ctypes

        ctypes.CDLL(None).fflush(None)
