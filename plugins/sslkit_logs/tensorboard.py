"""TensorBoard events in the run's folder; errors of TensorBoard are those of `sslkit_logs.events` to handle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from sslkit.api import Run
from sslkit_logs.buffer import Buffer

_WRITERS: dict[Path, tuple[SummaryWriter, Buffer]] = {}
"""Open writers by run folder, with what waits to be written. Hooks have no other place for state between calls."""


def start(run: Run) -> None:
    """Open the run's writer, and purge events after `run.step`."""
    finish(run)
    folder = run.folder / "tensorboard"
    purge = run.step + 1 if run.step else None
    _WRITERS[run.folder] = SummaryWriter(str(folder), purge_step=purge), Buffer()


def write(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Add one record, and hand all that wait to TensorBoard's writer if it is time to.

    A writer that fails, for example on a full disk, is dropped: its thread has ended.
    """
    writer, buffer = _WRITERS[run.folder]
    if not buffer.add(step, terms):
        return
    try:
        _hand_over(writer, buffer)
    except BaseException:
        del _WRITERS[run.folder]
        raise


def _hand_over(writer: SummaryWriter, buffer: Buffer) -> None:
    """Write each record as one event; `scene-scene.loss` becomes the scalar `scene-scene/loss`."""
    for record in buffer.records:
        terms = record.terms.items()
        values = [Summary.Value(tag=name.replace(".", "/"), simple_value=value) for name, value in terms]
        writer.file_writer.add_summary(Summary(value=values), record.step, record.time)  # type: ignore[attr-defined]
    buffer.records.clear()


def finish(run: Run) -> None:
    """Write the records that wait, and close the run's writer."""
    writer, buffer = _WRITERS.pop(run.folder, (None, Buffer()))
    if writer:
        _hand_over(writer, buffer)
        writer.close()
