"""The command `sslkit`, also available as `python -m sslkit`."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SIZE = re.compile(r"(?:allocate|mmap)[a-z ]* ([0-9.]+ ?(?:[KMGTPE]i?B|bytes))", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; our own errors are shown as a message, without a traceback."""
    from sslkit.cli import make_app
    from sslkit.errors import SslkitError, is_out_of_memory

    if not _has_current_folder():
        print("error: the current folder no longer exists: change to another one", file=sys.stderr)  # noqa: T201
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may contain bytes that are not text
            stream.reconfigure(errors="backslashreplace")
    try:
        with _short_warnings():
            make_app()(args=arguments, standalone_mode=True)
        sys.stdout.flush()
    except SslkitError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"error: {_describe(error)}", file=sys.stderr)  # noqa: T201
        return 1
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
            raise
        print(f"error: {_memory_message(error)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Show each warning that is meant for the user as one line, once, and without the place in the code."""
    from sslkit.errors import SslkitWarning

    usual, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if not issubclass(category, SslkitWarning):
            usual(message, category, *place, **options)
        elif str(message) not in told:
            told.add(str(message))
            print(f"warning: {message}", file=sys.stderr)  # noqa: T201

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def _has_current_folder() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def _memory_message(error: Exception) -> str:
    """Return the size that could not be had, where the error names it, and what makes a run smaller."""
    size = _SIZE.search(str(error))
    asked = f" (asked for {size[1]})" if size else ""
    return f"not enough memory{asked}: reduce batch_size, the sizes of views and probes, or the widths of the networks"


def _describe(error: OSError) -> str:
    """Return what the operating system refused, with the file where it is known."""
    return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror or error)


if __name__ == "__main__":
    sys.exit(main())
