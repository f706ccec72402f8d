"""Replay the step of a flight record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sslkit.data.opening import prepare
from sslkit.errors import DataError, UsageError
from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training import flight_record
from sslkit.training.checkpointer import restore
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.setup import set_up
from sslkit.training.step import TrainStep


@dataclass(frozen=True)
class ReplayResult:
    """A step that was replayed.

    Attributes:
        then: Name -> value in the record.
        now: Name -> value in the replay.
        same_images: Whether the replay used the images of the record.
        first_bad: The first module that turned finite inputs into a non-finite output.
        rank: Rank of this process.
    """

    step: int
    then: Mapping[str, float]
    now: Mapping[str, float]
    same_images: bool
    first_bad: str | None
    rank: int = 0

    @property
    def differs(self) -> list[str]:
        """Names of values that differ in any bit; all NaNs are equal."""
        return [name for name, value in self.then.items() if repr(value) != repr(self.now[name])]


def replay(plan: Plan, recipe_file: RecipeFile, record: Path, options: RunOptions) -> ReplayResult:
    """Replay the step of a flight record, forward and backward, and write nothing.

    Args:
        plan: Plan of the record's recipe.
        recipe_file: The record's recipe.
        record: A folder `diverged-step-...`.
        options: Options with as many devices as the run had.

    Raises:
        DataError: The record is damaged, or images are missing.
        UsageError: The run had another number of ranks.
    """
    recorded = RunFolder(record).read(flight_record.RECORD, None)
    if recorded is None:
        raise DataError(f"{record} is not a flight record: {flight_record.RECORD} is missing")
    fabric = launch(plan, options)
    ranks = recorded["processes"]
    if ranks != fabric.world_size:
        raise UsageError(f"{record} is from a run on {ranks} ranks, not {fabric.world_size}: write --devices {ranks}")
    source, proposals = prepare(plan, recipe_file)
    setup = set_up(plan, options, fabric, source, proposals)
    train_step, before = TrainStep(setup), record / flight_record.BEFORE
    restore(train_step.state, before, checkpoint.load(before))
    setup.network.train()
    step = train_step.state.step
    with setup.loader(step, step + 1) as loader, flight_record.FirstNonFinite(setup.network) as first:
        micro = train_step.accumulate(loader)
    terms = train_step.all_reduce(micro, last=True)
    then = {name: float(value) for name, value in recorded["terms"].items()}
    images = [batch["images"] for batch in recorded["in_hand"][fabric.global_rank]]
    same = [batch["index"].tolist() for batch in micro.batches] == images
    return ReplayResult(
        recorded["step"],
        then,
        {name: terms.get(name, math.nan) for name in then},
        same,
        first.module,
        fabric.global_rank,
    )
