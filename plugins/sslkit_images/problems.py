"""Collect everything that is wrong with annotations: the first few of each kind by name, the rest by number."""

from __future__ import annotations

from dataclasses import dataclass, field

from sslkit.errors import DataError

NAMED = 10
"""Records of each kind that are named."""
_LONGEST = 48
"""Characters of a value that a message shows."""


def cut(text: str, longest: int = _LONGEST) -> str:
    """Return the beginning of a text from outside, as much as a message can show."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def short(value: object) -> str:
    """Return a value as Python writes it, cut for a message."""
    return cut(repr(value))


@dataclass
class Problems:
    """Problems by kind.

    Attributes:
        named: Kind -> the first records, each with what it holds.
        counts: Kind -> number of records.
    """

    named: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, record: str = "") -> None:
        """Add one record of a kind, such as "images have no valid id"; a kind may stand alone."""
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        if record and count <= NAMED:
            self.named.setdefault(kind, []).append(record)

    def lines(self) -> list[str]:
        """Return one line for each kind."""
        return [self._line(kind) for kind in self.counts]

    def _line(self, kind: str) -> str:
        records = self.named.get(kind)
        if not records:
            return kind
        more = self.counts[kind] - len(records)
        return f"{kind} ({self.counts[kind]}): {', '.join(records)}{f' and {more} more' if more else ''}"

    def raise_if_any(self, title: str) -> None:
        """Raise an error with all problems, if there are any.

        Raises:
            DataError: There are problems.
        """
        if self.counts:
            raise DataError("\n    ".join([title, *self.lines()]))
