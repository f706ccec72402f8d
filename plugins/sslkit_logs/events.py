"""TensorBoard's events, as long as TensorBoard works: what fails in it is told once, and the run goes on without it.

TensorBoard may fail in any way: at its import, where protobuf does not fit; when it opens a folder whose name is not
UTF-8; and while it writes to a full disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sslkit.api import Run
from sslkit.errors import SslkitWarning
from sslkit_logs.jsonlines import NAME

_WORKING: set[Path] = set()
"""Folders of the runs whose writer is open and has not failed. Hooks have no other place for state between calls."""


def start(run: Run) -> None:
    """Open the run's writer."""
    _WORKING.add(run.folder)
    with _optional(run, "TensorBoard shows nothing of this run"):
        from sslkit_logs import tensorboard

        tensorboard.start(run)


def write(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Add one record, unless the writer has failed."""
    if run.folder not in _WORKING:
        return
    with _optional(run, f"TensorBoard's events end at step {step}"):
        from sslkit_logs import tensorboard

        tensorboard.write(run, step, terms)


def finish(run: Run) -> None:
    """Close the run's writer, unless it has failed."""
    if run.folder not in _WORKING:
        return
    with _optional(run, "TensorBoard's last events are missing"):
        from sslkit_logs import tensorboard

        tensorboard.finish(run)
    _WORKING.discard(run.folder)


@contextmanager
def _optional(run: Run, consequence: str) -> Iterator[None]:
    """Warn about a failure inside the block, and do without TensorBoard from then on."""
    try:
        yield
    except Exception as error:
        _WORKING.discard(run.folder)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"{consequence}: {reason}; {NAME} is written without it", SslkitWarning, stacklevel=4)
