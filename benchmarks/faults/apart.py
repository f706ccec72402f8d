"""Run the command line in a process of its own, with limits, and watch its side effects."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from faults import warm

MEMORY_MB = 1024
"""Resident memory that a process may add to what it had at the start."""
_ADDRESSES = 6 * 2**30
"""Address space that a process may add, in bytes: protects the machine if the limit above fails."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_STARTING = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen", "pty.spawn",
    "socket.connect", "ctypes.dlopen", "webbrowser.open",
)  # fmt: skip
_CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "shutil.")
_CODE = ("compile", "exec")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; negative where a signal ended it, None where it took too long.
        out: Its standard output.
        err: Its standard error.
        seconds: Time of the command.
        peak_mb: Peak resident memory above that at the start.
        did: Side effects: processes started, files changed outside `where`, code compiled from a canary's text.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    peak_mb: float
    did: tuple[str, ...] = ()

    @property
    def crashed(self) -> str | None:
        """Describe an end without a proper message."""
        if self.code is None:
            return f"it was not done after {self.seconds:.0f} s"
        if self.code < 0:
            return f"signal {-self.code} ended it"
        if "Traceback (most recent call last)" in self.err:
            return f"a traceback: {self.err.strip().splitlines()[-1]}"
        return f"{self.peak_mb:.0f} MB of memory" if self.peak_mb > MEMORY_MB else None


class Watch:
    """A recorder of the side effects of commands, through Python's audit events; each process has one."""

    def __init__(self) -> None:
        self.where: Path | None = None
        self.canary = ""
        self.did: list[str] = []
        sys.dont_write_bytecode = True  # late imports must not count as files that a command wrote
        sys.addaudithook(self._see)

    @contextmanager
    def over(self, where: Path, canary: str) -> Iterator[list[str]]:
        """Start watching: files below `where` may be written, `canary` must not be compiled."""
        self.did, self.where, self.canary = [], where.resolve(), canary
        try:
            yield self.did
        finally:
            self.where = None

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        where = self.where
        if where is None:
            return
        if event.startswith(_STARTING) and not _own(event, arguments):
            self.did.append(f"{event}{arguments!r}"[:300])
        elif event in _CODE and self.canary in repr(arguments[0]):
            self.did.append(f"{event} of {arguments[0]!r}"[:300])
        elif (event == "open" and _writes(arguments)) or event.startswith(_CHANGING):
            path = _path(arguments[0])
            if path is not None and not path.is_relative_to(where):
                self.did.append(f"{event} {path}")


def _own(event: str, arguments: tuple[Any, ...]) -> bool:
    """Say whether every run does this: ask for the commit and the processor, open libraries."""
    asked = [["git", "describe"], ["uname", "-p"]]
    return event == "ctypes.dlopen" or (event == "subprocess.Popen" and list(arguments[1])[:2] in asked)


def _writes(arguments: tuple[Any, ...]) -> bool:
    return isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)


def _path(given: Any) -> Path | None:
    """Return the path that an event names, resolved; None for descriptors and devices."""
    if not isinstance(given, str | bytes | os.PathLike):
        return None
    path = Path(os.path.abspath(os.fsdecode(given)))  # noqa: PTH100 - resolving would raise more events
    return None if path.is_relative_to("/dev") or path.is_relative_to("/proc") else path


def run(
    arguments: Sequence[str],
    folder: Path,
    timeout_s: float = 60,
    canary: str = "",
    also: Callable[[], Any] | None = None,
) -> Ended:
    """Run `sslkit` with these arguments in `folder`, in a process of its own that has sslkit loaded.

    Args:
        arguments: Arguments of the command line.
        folder: The current folder; the only one below which files may be written.
        timeout_s: Time after which the process is killed.
        canary: A text that must not be compiled.
        also: Returns the plugins to work with; can be pickled.
    """
    warm.up()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as aside:
        process = context.Process(target=_child, args=(list(arguments), str(folder), aside, canary, also))
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking a process with threads can fail: our threads wait
            process.start()
        process.join(timeout_s)
        seconds = time.monotonic() - began
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        out, err, did, peak = (_text(Path(aside, name)) for name in ("out", "err", "did", "peak"))
    code = None if late else process.exitcode
    return Ended(code, out, err, seconds, float(peak or 0), tuple(did.splitlines()))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _child(arguments: list[str], folder: str, aside: str, canary: str, also: Callable[[], Any] | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{aside}/{name}", os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    for variable, name in (("SSLKIT_CACHE", "cache"), ("TMPDIR", "tmp")):
        Path(folder, name).mkdir(exist_ok=True)
        os.environ[variable] = str(Path(folder, name))
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _addresses() + _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch = Watch()
    try:
        with watch.over(Path(folder), canary or "\0") as did:
            code = in_words(arguments, also)
    except BaseException:
        traceback.print_exc()
        code = 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    Path(aside, "did").write_text("\n".join(did), encoding="utf-8")
    Path(aside, "peak").write_text(str(peak / 1024), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _addresses() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class LateError(BaseException):
    """A block took too long; not one of the exceptions that programs catch."""


@contextmanager
def bounded(seconds: float, megabytes: int = MEMORY_MB) -> Iterator[None]:
    """Limit the time of a block of this process; after that it ends with `LateError`, in the main thread."""

    def late(number: int, frame: FrameType | None) -> None:
        raise LateError(f"it was not done after {seconds:g} s")

    _, hard = before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (_addresses() + megabytes * 2**20, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def in_words(arguments: Sequence[str], also: Callable[[], Any] | None = None) -> int:
    """Run a command as `python -m sslkit` does; `also` returns plugins to use in place of the installed ones."""
    from sslkit import __main__, cli

    if also is None:
        return __main__.main(arguments)
    make_app = cli.make_app
    cli.make_app = lambda: make_app(also())  # type: ignore[assignment,misc]
    try:
        return __main__.main(arguments)
    finally:
        cli.make_app = make_app
