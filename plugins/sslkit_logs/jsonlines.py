"""`metrics.jsonl`: one JSON object per record, in the order of the steps, none twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sslkit.api import Run

NAME = "metrics.jsonl"
_WAITING: dict[Path, list[str]] = {}
"""Lines that a full disk has not taken, by run folder: a hook has nowhere else to keep them between calls."""


def start(run: Run) -> None:
    """Keep the whole lines up to `run.step`, and drop what came after."""
    _WAITING[run.folder] = []
    file = run.folder / NAME
    if not file.exists():
        return
    kept = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if _step(line) <= run.step]
    aside = Path(f"{file}.part")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(file)


def _step(line: str) -> float:
    """Return a line's step; infinite for one that was torn."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def write(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Append one record; what is not finite becomes null, as JSON has no word for it.

    What a full disk does not take waits for the next call.
    """
    record: dict[str, float | None] = {"step": step, "epoch": step / run.steps_per_epoch}
    record |= {name: value if math.isfinite(value) else None for name, value in terms.items()}
    _WAITING.setdefault(run.folder, []).append(json.dumps(record) + "\n")
    with suppress(OSError):
        flush(run)


def flush(run: Run) -> None:
    """Write the lines that wait, all of them or none.

    Raises:
        OSError: The disk is full or not writable.
    """
    waiting = _WAITING.get(run.folder, [])
    file = run.folder / NAME
    before = file.stat().st_size if file.exists() else 0
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(waiting))
    except OSError:
        with suppress(OSError):
            os.truncate(file, before)
        raise
    waiting.clear()


def finish(run: Run) -> None:
    """Write what waits.

    Raises:
        OSError: It cannot be written; the message says how many records are lost.
    """
    try:
        flush(run)
    except OSError as error:
        raise OSError(f"the last {len(_WAITING[run.folder])} records of {NAME} are not written: {error}") from error
    finally:
        _WAITING.pop(run.folder, None)
