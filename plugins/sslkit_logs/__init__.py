"""Loggers that write a run's metrics as JSON lines and TensorBoard events; neither needs the other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Run


@hookimpl
def sslkit_run_started(run: Run) -> None:
    """Remove records after the checkpoint of a resumed run, and open the writers."""
    from sslkit_logs import events, jsonlines

    events.start(run)
    jsonlines.start(run)


@hookimpl
def sslkit_step_finished(run: Run, step: int, terms: Mapping[str, float]) -> None:
    """Write one record."""
    from sslkit_logs import events, jsonlines

    jsonlines.write(run, step, terms)
    events.write(run, step, terms)


@hookimpl
def sslkit_checkpoint_started(run: Run) -> None:
    """Write the records that wait: a run that resumes from this checkpoint does not produce them again."""
    from sslkit_logs import jsonlines

    with suppress(OSError):
        jsonlines.flush(run)


@hookimpl
def sslkit_run_finished(run: Run) -> None:
    """Close the writers."""
    from sslkit_logs import events, jsonlines

    events.finish(run)
    jsonlines.finish(run)
