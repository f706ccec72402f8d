"""The command `sslkit`, also available as `python -m sslkit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; our own errors are shown as a message, without a traceback."""
    from sslkit.cli import make_app
    from sslkit.errors import SslkitError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may contain bytes that are not text
            stream.reconfigure(errors="backslashreplace")
    try:
        make_app()(args=arguments, standalone_mode=True)
    except SslkitError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
