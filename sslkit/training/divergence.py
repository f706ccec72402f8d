"""A step that is not finite: the error that ends it, and its flight record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from sslkit.errors import DivergedError


class NonFiniteError(DivergedError):
    """A loss or gradient is not finite; the optimizer step was not taken.

    Attributes:
        step: The step, from 1.
        names: Terms that are not finite.
        terms: All terms of the step.
        batches: Images and boxes of each micro-batch of this rank.
        record: Text that says where the flight record is.
        advice: Further lines of the message.
    """

    def __init__(
        self, step: int, names: Sequence[str], terms: Mapping[str, float], lr: float, batches: list[dict[str, Tensor]]
    ) -> None:
        super().__init__()
        self.step, self.names, self.terms, self.lr, self.batches = step, list(names), terms, lr, batches
        self.record, self.advice = "", ""

    def __str__(self) -> str:
        shown = ", ".join(f"{name} = {self.terms[name]}" for name in self.names)
        record = f" {self.record}." if self.record else ""
        return (
            f"step {self.step} is not finite: {shown}. The optimizer step was not taken.{record} "
            f"Common causes: a learning rate too high for the batch (now {self.lr:.4g}), too short a warm-up, "
            f"16-bit precision{self.advice}"
        )


class CollapsedError(DivergedError):
    """The features collapsed, and the options ask to stop then."""
