"""Observers of a run: the person at the terminal, and plugins; on rank 0 only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sslkit.api import Run
from sslkit.plugins import Plugins
from sslkit.progress import Display


class Observers:
    """The display and the plugins of a run.

    Args:
        plugins: The plugins whose reporting hooks are called.
        run: The run as plugins see it.
        display: The display of the run.
        is_first: Whether this is rank 0; other ranks report nothing.
    """

    def __init__(self, plugins: Plugins, run: Run, display: Display, is_first: bool) -> None:
        self.plugins, self.run = plugins, run
        self.display = display if is_first else None

    def call(self, hook: str, **event: Any) -> None:
        """Call a reporting hook of every plugin; one that fails is named once and not called again."""
        if self.display is None:
            return
        event["run"] = self.run
        for impl in getattr(self.plugins.manager.hook, hook).get_hookimpls():
            try:
                impl.function(*(event[name] for name in impl.argnames))
            except Exception as error:  # an observer must not end the run
                owner = self.plugins.owners[impl.plugin_name]
                self.plugins.manager.unregister(impl.plugin)
                self.note(f"{owner} failed in {hook} and is disabled: {type(error).__name__}: {error}")

    def note(self, *lines: str) -> None:
        """Show lines."""
        if self.display:
            for line in lines:
                self.display.note(line)

    @contextmanager
    def showing(self, step: int) -> Iterator[None]:
        """Show the run inside the block, from a step on."""
        if self.display is None:
            yield
            return
        self.display.start(step)
        try:
            yield
        finally:
            self.display.stop()
