"""TensorBoard events in the run's folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from sslkit.api import Run

_WRITERS: dict[Path, SummaryWriter] = {}
"""Open writers by run folder: a hook has nowhere else to keep them between calls."""


def start(run: Run) -> None:
    """Open the run's writer; events behind `run.step` are purged."""
    finish(run)
    folder = run.folder / "tensorboard"
    purge = run.step + 1 if run.step else None
    _WRITERS[run.folder] = SummaryWriter(str(folder), purge_step=purge)


def write(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Write one scalar per term, all in one event; `scene-scene.loss` becomes `scene-scene/loss`.

    A writer that fails once, as on a full disk, is told of and let go: its thread has ended.
    """
    writer = _WRITERS.get(run.folder)
    if writer is None:
        return
    try:
        values = [Summary.Value(tag=name.replace(".", "/"), simple_value=value) for name, value in terms.items()]
        writer.file_writer.add_summary(Summary(value=values), step)  # type: ignore[attr-defined]
    except OSError as error:
        del _WRITERS[run.folder]
        warnings.warn(f"TensorBoard's events end at step {step}: {error}; metrics.jsonl goes on", stacklevel=2)


def finish(run: Run) -> None:
    """Write out and close the run's writer."""
    writer = _WRITERS.pop(run.folder, None)
    if writer:
        with suppress(OSError):
            writer.close()
