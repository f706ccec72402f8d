"""Run a command for a bounded time, and end everything that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARKER = "SSLKIT_REHEARSAL_PART"
"""Environment variable by which the processes of a part are known, also those in a session of their own."""
GRACE_S = 1.5
"""Seconds between the signal that asks a process to stop and the one that ends it."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Exit code, or minus the signal that ended it; None when its time was over.
        seconds: Time that it took.
        tail: The last lines that it printed.
    """

    code: int | None
    seconds: float
    tail: str


def run(command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path, seconds: float) -> Outcome:
    """Run a command; when the time is over, or the caller is interrupted, end it and all its descendants.

    Args:
        command: Program and arguments.
        env: The whole environment.
        folder: Working folder.
        log: File for everything that it prints.
        seconds: Time after which it is ended.
    """
    began, marker = time.monotonic(), uuid.uuid4().hex
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**env, MARKER: marker}, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process, marker)
    return Outcome(code, time.monotonic() - began, tail(log.read_text(errors="replace")))


def end(process: subprocess.Popen[bytes], marker: str) -> None:
    """Ask the process and its descendants to stop, and end those that have not after a grace period."""
    _signal(process, marker, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and (process.poll() is None or members(marker)):
        time.sleep(0.02)
    _signal(process, marker, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], marker: str, number: signal.Signals) -> None:
    if process.poll() is None:  # its id is also that of its process group
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    for pid in members(marker):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def members(marker: str) -> list[int]:
    """Return the ids of the living processes with this marker; on systems without /proc, none."""
    wanted = f"{MARKER}={marker}".encode()
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if wanted in _environment(entry)]


def _environment(entry: Path) -> Sequence[bytes]:
    with suppress(OSError):
        return (entry / "environ").read_bytes().split(b"\0")  # empty for a process that has ended
    return ()


def tail(text: str, lines: int = 25, width: int = 160) -> str:
    """Return the last lines of an output, without blank ones and without what a progress bar has overwritten."""
    visible = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return "\n".join([line[:width] for line in visible if line][-lines:])
