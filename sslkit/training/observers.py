"""Observers of a run: the person at the terminal, and plugins; on rank 0 only."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pluggy
import torch

from sslkit.api import Run
from sslkit.foreign.isolation import describe, isolated
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
        self._recipes: dict[str, Mapping[str, Any]] = {}
        self.display = display if is_first else None

    def call(self, hook: str, **event: Any) -> None:
        """Call a reporting hook of every plugin; one that fails is named once and not called again.

        Each gets copies of its own: what one of them changes reaches neither the others nor the run.
        """
        if self.display is None:
            return
        for impl in getattr(self.plugins.manager.hook, hook).get_hookimpls():
            own = {**event, "run": self._run_for(impl.plugin_name)}
            if "terms" in own:
                own["terms"] = dict(own["terms"])
            disable = partial(self._disable, impl, hook)
            with isolated(disable), _restored(), redirect_stdout(sys.stderr):  # stdout is for results
                impl.function(*(own[name] for name in impl.argnames))

    def _run_for(self, plugin: str) -> Run:
        """Return the run for one plugin, whose recipe is copied at its first call."""
        if plugin not in self._recipes:
            self._recipes[plugin] = copy.deepcopy(self.run.recipe)
        return replace(self.run, recipe=self._recipes[plugin])

    def _disable(self, impl: pluggy.HookImpl, hook: str, error: BaseException) -> None:
        """Do not call a plugin again that has failed: an observer must not end the run."""
        owner = self.plugins.owners[impl.plugin_name]
        self.plugins.manager.unregister(impl.plugin)
        self.note(f"{owner} failed in {hook} and is disabled: {describe(error)}")

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


@contextmanager
def _restored() -> Iterator[None]:
    """Undo what an observer changes of the process that the run depends on: torch's modes and the working folder."""
    grad, dtype, threads, folder = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        _folder(),
    )
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if folder and _folder() != folder:
            os.chdir(folder)


def _folder() -> Path | None:
    """Return the working folder, or None if it no longer exists."""
    with suppress(OSError):
        return Path.cwd()
    return None
