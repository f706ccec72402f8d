"""`metrics.jsonl`: one JSON object per record, in the order of the steps, without duplicates."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sslkit.api import Run

NAME = "metrics.jsonl"
_PENDING: dict[Path, list[str]] = {}
"""Lines that could not be written to a full disk, by run folder. Hooks have no other place for state between calls."""


def start(run: Run) -> None:
    """Keep complete lines up to `run.step`, and drop all others."""
    _PENDING[run.folder] = []
    file = run.folder / NAME
    if not file.exists():
        return
    lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if _step(line) <= run.step]
    temporary = Path(f"{file}.part")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(file)


def _step(line: str) -> float:
    """Return the step of a line; infinity for an incomplete line."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def write(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Append one record. Values that are not finite become null, as JSON cannot represent them.

    Records that cannot be written to a full disk wait for the next call.
    """
    record: dict[str, float | None] = {"step": step, "epoch": step / run.steps_per_epoch}
    record |= {name: value if math.isfinite(value) else None for name, value in terms.items()}
    _PENDING.setdefault(run.folder, []).append(json.dumps(record) + "\n")
    with suppress(OSError):
        flush(run)


def flush(run: Run) -> None:
    """Write all pending lines, or none of them.

    Raises:
        OSError: The disk is full or not writable.
    """
    pending = _PENDING.get(run.folder, [])
    file = run.folder / NAME
    size = file.stat().st_size if file.exists() else 0
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(pending))
    except OSError:
        with suppress(OSError):
            os.truncate(file, size)
        raise
    pending.clear()


def finish(run: Run) -> None:
    """Write pending records.

    Raises:
        OSError: The records cannot be written; the message says how many are lost.
    """
    try:
        flush(run)
    except OSError as error:
        raise OSError(
            f"the last {len(_PENDING[run.folder])} records of {NAME} could not be written: {error}"
        ) from error
    finally:
        _PENDING.pop(run.folder, None)
