"""Do the step of a flight record again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sslkit.data.opening import prepare
from sslkit.errors import DataError, UsageError
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import RecipeFile
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training import flight_record
from sslkit.training.checkpointer import take
from sslkit.training.hardware import fabric_of
from sslkit.training.options import RunOptions
from sslkit.training.step import Stepper


@dataclass(frozen=True)
class ReplayResult:
    """A step that was done again.

    Attributes:
        then: What the record says, name -> value.
        now: What it came to this time.
        same_images: Whether it took the images of the record.
        first_bad: The first module whose output was not finite though its input was.
        rank: Of this process.
    """

    step: int
    then: Mapping[str, float]
    now: Mapping[str, float]
    same_images: bool
    first_bad: str | None
    rank: int = 0

    @property
    def differs(self) -> list[str]:
        """Names of values that are not the same bits; one NaN is as another."""
        return [name for name, value in self.then.items() if repr(value) != repr(self.now[name])]


def again(plan: Plan, text: RecipeFile, record: Path, options: RunOptions) -> ReplayResult:
    """Do the step of a flight record again, forward and backward, and write nothing.

    Args:
        plan: Of the record's recipe.
        text: The same.
        record: A folder `diverged-step-...`.
        options: As many devices as the run had.

    Raises:
        DataError: The record is damaged, or images are missing.
        UsageError: It is of another number of processes.
    """
    told = RunFolder(record).read(flight_record.RECORD, None)
    if told is None:
        raise DataError(f"{record} is no flight record: it has no {flight_record.RECORD}")
    fabric = fabric_of(plan, options)
    if told["processes"] != fabric.world_size:
        raise UsageError(f"{record} is of {told['processes']} processes: write --devices {told['processes']}")
    source, proposals = prepare(plan, text)
    stepper = Stepper(plan, options, fabric, source, proposals)
    take(stepper, record / flight_record.BEFORE, checkpoint.load(record / flight_record.BEFORE))
    stepper.network.train()
    with stepper.feed(stepper.step + 1) as feed, flight_record.FirstBad(stepper.network) as first:
        taken = stepper.passes(feed)
    terms = stepper.agree(taken.outcomes, [])
    then = {name: float(value) for name, value in told["terms"].items()}
    images = [hand["images"] for hand in told["in_hand"][fabric.global_rank]]
    same = [batch["index"].tolist() for batch in taken.batches] == images
    return ReplayResult(
        told["step"], then, {name: terms.get(name, math.nan) for name in then}, same, first.found, fabric.global_rank
    )
