"""What a part of the campaign found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fault:
    """Something that sslkit did not survive.

    Attributes:
        case: Its name.
        what: What happened, beside what should have.
        again: What is needed to see it again: a seed, a mutation, a file's contents.
    """

    case: str
    what: str
    again: str


@dataclass
class Part:
    """A part of the campaign.

    Attributes:
        name: Of the part.
        cases: Kind of case -> how many there were.
        faults: What was not survived.
        figures: What else was measured.
    """

    name: str
    cases: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def fault(self, case: str, what: str, again: str) -> None:
        """Note what was not survived."""
        self.faults.append(Fault(case, what, again))

    def told(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        faults = [vars(fault) for fault in self.faults]
        return {"name": self.name, "cases": dict(self.cases), "faults": faults, "figures": self.figures}
