"""The machine: where sslkit keeps what can be made again, and how many cores it may use."""

import os
from pathlib import Path

from sslkit.errors import DataError


def cache_dir() -> Path:
    """Return the cache folder: `$SSLKIT_CACHE`, else `$XDG_CACHE_HOME/sslkit`, else `~/.cache/sslkit`."""
    own = os.environ.get("SSLKIT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sslkit"


def require_within_reach(path: Path) -> None:
    """Refuse to write where a recipe says: it may be someone else's.

    The cache folder and the current one are the user's own choice.

    Raises:
        DataError: `path` is in neither of them.
    """
    here, cache, asked = (Path(os.path.realpath(folder.expanduser())) for folder in (Path(), cache_dir(), path))
    if not (asked.is_relative_to(here) or asked.is_relative_to(cache)):
        raise DataError(
            f"{path} is not written to: it is in neither the current folder ({here}) nor the cache folder ({cache}), "
            f"and recipes may be someone else's. To write there, run the command in {asked.parent}, "
            f"or say SSLKIT_CACHE={asked}"
        )


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
