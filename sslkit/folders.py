"""The machine: where the cache folder is, where recipes may write, and how many cores to use."""

import os
import tempfile
import warnings
from functools import cache
from pathlib import Path

from sslkit.errors import DataError, SslkitWarning, UsageError


def cache_dir() -> Path:
    """Return the cache folder: `$SSLKIT_CACHE`, else `$XDG_CACHE_HOME/sslkit`, else `~/.cache/sslkit`.

    A user without a home folder gets a folder of their own in the folder for temporary files, and a `SslkitWarning`.
    The folder may be missing or not writable: see `sslkit.files.save_cache`.

    Raises:
        UsageError: A variable names the home folder of an unknown user, such as `~nobody-here/cache`.
    """
    for variable, inner in (("SSLKIT_CACHE", ""), ("XDG_CACHE_HOME", "sslkit")):
        if folder := os.environ.get(variable):
            return _expand(variable, folder) / inner
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    return _without_home() if home.startswith("~") else Path(home) / ".cache" / "sslkit"


def _expand(variable: str, folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        user = Path(folder).parts[0]
        raise UsageError(f"{variable}={folder}: the home folder {user} is unknown; write an absolute path") from None


@cache
def _without_home() -> Path:
    """Return a folder for temporary files that belongs to this user, and say so.

    A folder of that name that somebody else made is not used: what it holds could be anything.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"sslkit-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            folder = Path(tempfile.mkdtemp(prefix="sslkit-"))
    except OSError:  # nothing here can be written
        return Path(os.devnull) / "sslkit"
    warnings.warn(
        f"there is no home folder, so the cache is in {folder}; set SSLKIT_CACHE to keep it elsewhere",
        SslkitWarning, stacklevel=3,
    )  # fmt: skip
    return folder


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
