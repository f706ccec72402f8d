"""`metrics.jsonl`: one JSON object per record, in the order of the steps, none twice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from sslkit.api import Run

NAME = "metrics.jsonl"


def start(run: Run) -> None:
    """Keep the whole lines up to `run.step`, and drop what came after."""
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
    """Append one record; what is not finite becomes null, as JSON has no word for it."""
    record: dict[str, float | None] = {"step": step, "epoch": step / run.steps_per_epoch}
    record |= {name: value if math.isfinite(value) else None for name, value in terms.items()}
    with (run.folder / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
