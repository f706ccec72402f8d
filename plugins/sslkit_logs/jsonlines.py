"""`metrics.jsonl`: one JSON object per record, in the order of the steps, without duplicates.

The file is written at most once a second, before a checkpoint, and when the run ends or fails. A process that is killed
loses at most the records of a second; its run resumes from a checkpoint before them and records their steps again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sslkit.api import Run
from sslkit.files import replace_file
from sslkit_logs.buffer import Buffer, Record

NAME = "metrics.jsonl"
_BUFFERS: dict[Path, Buffer] = {}
"""Records that are not written yet, by run folder. Hooks have no other place for state between calls."""


def start(run: Run) -> None:
    """Keep records up to `run.step`, in the file and in the buffer, and drop all others.

    Raises:
        OSError: The file cannot be read.
        StorageError: It cannot be written.
    """
    waiting = _BUFFERS.get(run.folder, Buffer()).records
    _BUFFERS[run.folder] = Buffer([record for record in waiting if record.step <= run.step])
    file = run.folder / NAME
    if not file.is_file():
        return
    lines = [line for line in file.read_bytes().splitlines(keepends=True) if _step(line) <= run.step]
    with replace_file(file) as part:
        part.write_bytes(b"".join(lines))


def _step(line: bytes) -> float:
    """Return the step of a line; infinity for an incomplete or damaged line."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def write(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Add one record, and write all that wait if it is time to.

    Records that cannot be written to a full disk wait for a later call.
    """
    if _BUFFERS.setdefault(run.folder, Buffer()).add(step, terms):
        with suppress(OSError):
            flush(run)


def flush(run: Run) -> None:
    """Write all waiting records, or none of them.

    Raises:
        OSError: The disk is full or not writable.
    """
    waiting = _BUFFERS.setdefault(run.folder, Buffer()).records
    if not waiting:
        return
    file = run.folder / NAME
    size = file.stat().st_size if file.exists() else 0
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(_line(run, record) for record in waiting))
    except OSError:
        with suppress(OSError):
            os.truncate(file, size)
        raise
    waiting.clear()


def _line(run: Run, record: Record) -> str:
    """Return the line of a record; values that are not finite become null, as JSON cannot represent them."""
    values: dict[str, float | None] = {"step": record.step, "epoch": record.step / run.steps_per_epoch}
    values |= {name: value if math.isfinite(value) else None for name, value in record.terms.items()}
    return json.dumps(values) + "\n"


def finish(run: Run) -> None:
    """Write the records that wait.

    Raises:
        OSError: The records cannot be written; the message says how many are lost.
    """
    try:
        flush(run)
    except OSError as error:
        lost = len(_BUFFERS[run.folder].records)
        raise OSError(f"the last {lost} records of {NAME} could not be written: {error}") from error
    finally:
        _BUFFERS.pop(run.folder, None)
