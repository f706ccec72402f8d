"""A step that is not finite: its flight record, and what is said of it."""

from __future__ import annotations

from sslkit.errors import DivergedError, StorageError
from sslkit.planning import toml
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training import flight_record
from sslkit.training.checkpointer import Checkpointer
from sslkit.training.step import NotFinite


class NonFiniteError(DivergedError):
    """A loss or gradient is not finite."""


def recorded(error: NotFinite, keeper: Checkpointer) -> NonFiniteError:
    """Write the flight record of a step that was not made, and return what to raise; to be called in all processes."""
    where = _record(error, keeper)
    stepper = keeper.stepper
    shown = ", ".join(f"{name} = {error.terms[name]}" for name in error.names)
    return NonFiniteError(
        f"step {stepper.step + 1} is not finite: {shown}. The optimizer step was not made. {where}. "
        f"Common causes: a learning rate too high for the batch (now {stepper.lr(stepper.step):.4g}), "
        "too short a warm-up, 16-bit precision"
    )


def _record(error: NotFinite, keeper: Checkpointer) -> str:
    """Write the record, and say where it is."""
    stepper, fabric, recipe = keeper.stepper, keeper.stepper.fabric, keeper.stepper.plan.recipe
    own = flight_record.in_hand(error.batches)
    ranks = range(fabric.world_size)
    hands = [fabric.broadcast(own, src=rank) for rank in ranks]
    bad = [fabric.broadcast(flight_record.without_finite_gradient(stepper.network), src=rank) for rank in ranks]
    stepper.buffers.put_back()
    trained = keeper.trained()
    if not fabric.is_global_zero:
        return ""  # the first one tells
    for batch in (batch for hand in hands for batch in hand):
        batch["keys"] = [stepper.source.key(index) for index in batch["images"]]
    record = RunFolder(keeper.folder.path / flight_record.folder_name(stepper.step + 1))
    told = {
        "step": stepper.step + 1, "terms": {name: repr(value) for name, value in error.terms.items()},
        "without_finite_gradient": list(dict.fromkeys(name for names in bad for name in names)),
        "lr": stepper.lr(stepper.step), "target_momentum": stepper.momentum(), "processes": fabric.world_size,
        "device": str(fabric.device),
        "seeds": flight_record.seeds(recipe.seed, stepper.step, recipe.accumulate, fabric.world_size), "in_hand": hands,
    }  # fmt: skip
    try:
        before = {**keeper.everything(trained), "counts": stepper.counts_before}
        checkpoint.save(record.path / flight_record.BEFORE, before)
        record.write_text(flight_record.RECIPE, toml.dumps(stepper.plan.resolved()))
        record.write(flight_record.RECORD, told)
    except StorageError as failed:
        return f"No record is left: {failed}"
    return f"`sslkit verify replay {record.path}` does it again"
