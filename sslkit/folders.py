"""The machine: where the cache folder is, where recipes may write, and how many cores to use."""

import os
from pathlib import Path

from sslkit.errors import DataError


def cache_dir() -> Path:
    """Return the cache folder: `$SSLKIT_CACHE`, else `$XDG_CACHE_HOME/sslkit`, else `~/.cache/sslkit`."""
    folder = os.environ.get("SSLKIT_CACHE")
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sslkit"


def require_within_reach(path: Path) -> None:
    """Refuse to write to a path that a recipe names, unless it is in the current folder or in the cache folder.

    The recipe may be somebody else's; these two folders are the user's choice.

    Raises:
        DataError: `path` is in neither of them.
    """
    here, cache, target = (Path(os.path.realpath(folder.expanduser())) for folder in (Path(), cache_dir(), path))
    if not (target.is_relative_to(here) or target.is_relative_to(cache)):
        raise DataError(
            f"{path} is not written to: it is in neither the current folder ({here}) nor the cache folder ({cache}), "
            f"and recipes may be somebody else's. To write there, run the command in {target.parent}, "
            f"or set SSLKIT_CACHE={target}"
        )


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
