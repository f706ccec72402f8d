"""The machine: where sslkit keeps what can be made again, and how many cores it may use."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the cache folder: `$SSLKIT_CACHE`, else `$XDG_CACHE_HOME/sslkit`, else `~/.cache/sslkit`."""
    own = os.environ.get("SSLKIT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sslkit"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
