"""Start a run again and again, and kill it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslkit.errors import SslkitError
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import METRICS, RunFolder

LOG = "log.txt"
_STEP_POLL_S, _SAVE_POLL_S = 0.005, 0.0005  # a save of a small network takes milliseconds


@dataclass(frozen=True)
class Kill:
    """A SIGKILL to a run and all its processes.

    Attributes:
        step: The last step that the run is known to have taken.
        saving: Whether a checkpoint was being written.
        checkpoint: Step of the checkpoint that the run resumes from; 0 if it has none and begins again.
    """

    step: int
    saving: bool
    checkpoint: int = 0


class Attempts:
    """Start one run, and start it again after each kill."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.command = [sys.executable, "-m", "sslkit", *command]
        self.folder = folder
        self.arm = command[-1]

    @property
    def run(self) -> RunFolder:
        """The run's folder; before the run creates it, a path that does not exist."""
        folders = sorted(self.folder.glob(f"*/{self.arm}-s*"))
        return RunFolder(folders[0] if folders else self.folder / "none")

    def finish(self) -> None:
        """Start the run and wait for its end.

        Raises:
            SslkitError: It fails; the message shows its log.
        """
        with self._log() as log:
            code = subprocess.run(self.command, stdout=log, stderr=log, check=False).returncode  # noqa: S603
        if code:
            raise SslkitError(f"the run '{self.arm}' ended with code {code}:\n{self._log_tail()}")

    def kill(self, after: int, saving: bool, share: float) -> Kill | None:
        """Start the run and kill all its processes after step `after`, and after a step of its own.

        Args:
            after: The step.
            saving: Kill during the next save; otherwise at a random moment.
            share: Part of a step's duration, of at most a second, to wait before the kill.

        Returns:
            The kill, or None if the run ended first.
        """
        with self._log() as log:
            process = subprocess.Popen(  # noqa: S603
                self.command, stdout=log, stderr=log, start_new_session=True
            )
        left = self._parts()  # of saves that earlier kills have cut off
        try:
            duration = self._wait(process, max(after, self._step()))
            if not saving:
                time.sleep(share * duration)
            while saving and process.poll() is None and self._parts() <= left:
                time.sleep(_SAVE_POLL_S)
            step, in_save = self._step(), not self._parts() <= left
        finally:
            code = process.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code not in (None, 0):
            raise SslkitError(f"the run '{self.arm}' ended with code {code}:\n{self._log_tail()}")
        return Kill(step, in_save, self._checkpoint()) if code is None else None

    def _wait(self, process: subprocess.Popen[bytes], after: int) -> float:
        """Wait until the run has taken a step after `after`, or ended; return the seconds of a step, at most 1."""
        begun, first = self._step(), 0.0
        while process.poll() is None and (step := self._step()) <= after:
            if step != begun and not first:
                begun, first = step, time.monotonic()
            time.sleep(_STEP_POLL_S)
        steps = self._step() - begun
        return min(1.0, (time.monotonic() - first) / steps) if first and steps > 0 else 0.0

    def _checkpoint(self) -> int:
        """Return the step of the checkpoint that the run would resume from; 0 without one."""
        newest = checkpoint.latest(self.run.checkpoints)
        return checkpoint.step_of(newest) if newest else 0

    def _step(self) -> int:
        """Return the last step in the metrics, which are written now and then, or of a checkpoint."""
        return max(self._checkpoint(), self._step_of_metrics())

    def _step_of_metrics(self) -> int:
        try:
            with (self.run.path / METRICS).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 100_000))
                lines = file.read().split(b"\n")[:-1]
            return int(json.loads(lines[-1])["step"])
        except (OSError, ValueError, KeyError, IndexError):
            return 0

    def _parts(self) -> set[Path]:
        """Return the files of checkpoints that are being written, or were when the run was killed."""
        return set(self.run.checkpoints.glob(".*.part"))

    def _log(self) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        return (self.folder / f"{self.arm}-{LOG}").open("ab")

    def _log_tail(self) -> str:
        text = (self.folder / f"{self.arm}-{LOG}").read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"    {line}" for line in text.splitlines()[-10:])
