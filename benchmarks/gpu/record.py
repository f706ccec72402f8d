"""What a part of the rehearsal finds, on disk as it comes: a part that is ended leaves what it has."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SkippedError(Exception):
    """The part cannot run here, for a reason that is no failure."""


class PartFailedError(Exception):
    """The part failed; the message says all there is to say, so that a traceback would add nothing."""


class Record:
    """The results of one part.

    Attributes:
        content: `checks`, `tables`, `notes` and `curves`, which the page shows, and `data`, which it does not.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content: dict[str, Any] = {"checks": [], "tables": [], "notes": [], "curves": [], "data": {}}

    def check(self, what: str, value: object, limit: str, ok: bool) -> None:
        """Add a claim: what was measured, its value, what it has to be, and whether it is."""
        self.content["checks"].append({"what": what, "value": shown(value), "limit": limit, "ok": bool(ok)})
        self.save()

    def table(self, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add a table, or replace the one of this title; all rows have the same columns."""
        cells = [{name: shown(value) for name, value in row.items()} for row in rows]
        others = [table for table in self.content["tables"] if table["title"] != title]
        self.content["tables"] = [*others, {"title": title, "rows": cells}]
        self.save()

    def note(self, text: str) -> None:
        """Add a sentence."""
        self.content["notes"].append(text)
        self.save()

    def curve(
        self, title: str, x: str, lines: Mapping[str, Sequence[tuple[float, float]]], levels: Mapping[str, float]
    ) -> None:
        """Add a figure, or replace the one of this title.

        Args:
            title: What is drawn upwards.
            x: What is drawn to the right.
            lines: Name -> points.
            levels: Name -> value that a line is compared with, drawn as a dashed line.
        """
        others = [curve for curve in self.content["curves"] if curve["title"] != title]
        figure = {"title": title, "x": x, "lines": {name: list(line) for name, line in lines.items()}}
        self.content["curves"] = [*others, {**figure, "levels": dict(levels)}]
        self.save()

    def put(self, **data: Any) -> None:
        """Add figures for the JSON file."""
        self.content["data"] |= data
        self.save()

    def save(self) -> None:
        """Write everything so far."""
        write_json(self.file, self.content)

    @property
    def failed(self) -> list[str]:
        """The claims that do not hold."""
        return [check["what"] for check in self.content["checks"] if not check["ok"]]


@dataclass(frozen=True)
class Job:
    """What a part is given.

    Attributes:
        name: Name of the part.
        deadline: When the part is ended, on `time.monotonic`'s clock.
        work: An empty folder of its own.
        record: Where its results go.
        earlier: Results of the parts before it: name -> `content` of its record.
    """

    name: str
    deadline: float
    work: Path
    record: Record
    earlier: Mapping[str, Mapping[str, Any]]

    @property
    def left(self) -> float:
        """Seconds until the part is ended."""
        return self.deadline - time.monotonic()


def shown(value: object) -> str:
    """Format a value for the page: numbers with three or four digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if not math.isfinite(value) or abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_json(file: Path, content: Any) -> None:
    """Write a file whole or not at all: aside, then renamed. Values that are not finite become null."""
    aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(finite(content), indent=1) + "\n")
    aside.replace(file)


def finite(content: Any) -> Any:
    """Return the same with None in place of numbers that JSON does not have."""
    if isinstance(content, Mapping):
        return {str(name): finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(file: Path) -> Any:
    """Read a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
