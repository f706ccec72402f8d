"""The outcome of a part of the campaign."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A case that sslkit did not survive.

    Attributes:
        case: Its name.
        what: What happened, beside what should have happened.
        again: What reproduces it: a seed, a mutation, a file's contents.
    """

    case: str
    what: str
    again: str


@dataclass
class Part:
    """A part of the campaign.

    Attributes:
        name: Name of the part.
        cases: Kind of case -> number of cases.
        faults: Cases that sslkit did not survive.
        figures: Other measurements.
    """

    name: str
    cases: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def fault(self, case: str, what: str, again: str) -> None:
        """Record a case that sslkit did not survive."""
        self.faults.append(Fault(case, what, again))

    def as_json(self) -> dict[str, Any]:
        """Return the part as values for JSON."""
        faults = [vars(fault) for fault in self.faults]
        return {"name": self.name, "cases": dict(self.cases), "faults": faults, "figures": self.figures}
