"""The machine: where the cache folder is, where recipes may write, and how many cores and processes to use."""

import multiprocessing
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import resource_tracker
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
    if not home.startswith("~"):
        return Path(home) / ".cache" / "sslkit"
    own = temporary_cache()
    place = "nothing is cached" if own.parent == Path(os.devnull) else f"the cache is in {own}"
    text = f"there is no home folder, so {place}; set SSLKIT_CACHE to keep it elsewhere"
    warnings.warn(text, SslkitWarning, stacklevel=1)  # shown once, whoever asks
    return own


def _expand(variable: str, folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        user = Path(folder).parts[0]
        raise UsageError(f"{variable}={folder}: the home folder {user} is unknown; write an absolute path") from None


@cache
def temporary_cache() -> Path:
    """Return a folder of this user's own among the temporary files, for where the cache folder cannot be written.

    A folder of its name that somebody else made is not used: what it holds could be anything. Where nothing can be
    written, the path is one that cannot be written, either.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"sslkit-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            folder = Path(tempfile.mkdtemp(prefix="sslkit-"))
    except OSError:
        return Path(os.devnull) / "sslkit"
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


def processes(wanted: int) -> int:
    """Return how many helper processes to start: `wanted`, or 0 and a `SslkitWarning` where they cannot share locks.

    Locks between processes need `/dev/shm`, which some containers lack. With 0, the work is done in this process.
    """
    return wanted if wanted and _can_share_locks() else 0


@cache
def _can_share_locks() -> bool:
    methods = multiprocessing.get_all_start_methods()
    try:
        tempfile.gettempdir()
        multiprocessing.get_context("fork" if "fork" in methods else methods[0]).Lock()
    except (OSError, ImportError) as error:
        warnings.warn(
            f"no helper processes, as they cannot share locks in /dev/shm ({error}): this process does all the work",
            SslkitWarning, stacklevel=1,
        )  # fmt: skip
        return False
    return True


@contextmanager
def signals_blocked(*signals: int) -> Iterator[None]:
    """Hold signals back inside the block; helper processes that are started there never get them.

    Ctrl-C reaches every process of a terminal, and one that is just starting would print a traceback.

    Args:
        signals: Signals, SIGINT by default. This process gets those that arrive meanwhile at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - not on Windows
        yield
        return
    resource_tracker.ensure_running()  # starting it inside the block would unblock them
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, signals or (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
