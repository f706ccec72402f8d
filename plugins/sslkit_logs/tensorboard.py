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
"""Open writers by run folder. Hooks have no other place for state between calls."""


def start(run: Run) -> None:
    """Open the run's writer, and purge events after `run.step`."""
    finish(run)
    folder = run.folder / "tensorboard"
    purge = run.step + 1 if run.step else None
    _WRITERS[run.folder] = SummaryWriter(str(folder), purge_step=purge)


def write(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Write all terms as scalars in one event; `scene-scene.loss` becomes `scene-scene/loss`.

    If a writer fails, for example on a full disk, warn and drop it: its thread has ended.
    """
    writer = _WRITERS.get(run.folder)
    if writer is None:
        return
    try:
        values = [Summary.Value(tag=name.replace(".", "/"), simple_value=value) for name, value in terms.items()]
        writer.file_writer.add_summary(Summary(value=values), step)  # type: ignore[attr-defined]
    except OSError as error:
        del _WRITERS[run.folder]
        warnings.warn(f"TensorBoard's events end at step {step}: {error}; metrics.jsonl continues", stacklevel=2)


def finish(run: Run) -> None:
    """Flush and close the run's writer."""
    writer = _WRITERS.pop(run.folder, None)
    if writer:
        with suppress(OSError):
            writer.close()
