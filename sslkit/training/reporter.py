"""Report on a run: each step to the person and the plugins, and its status into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslkit.api import Run
from sslkit.errors import StorageError
from sslkit.networks.monitors import is_measured
from sslkit.plugins import Plugins
from sslkit.progress import Display
from sslkit.storage.run_folder import BAD_IMAGES, PROBE_TERM, STATUS, RunFolder, collapsed_name
from sslkit.training.collapse import Alarm
from sslkit.training.observers import Observers
from sslkit.training.setup import Setup
from sslkit.training.state import TrainState
from sslkit.training.usage import Usage


class Reporter:
    """Report on a run; ranks other than 0 report nothing.

    Args:
        setup: The networks, optimizer and batches of the run.
        state: The state of the run.
        folder: The run's folder.
        plugins: The plugins whose reporting hooks are called.
    """

    def __init__(self, setup: Setup, state: TrainState, folder: RunFolder, plugins: Plugins) -> None:
        self.setup, self.state, self.folder = setup, state, folder
        self.is_first = setup.fabric.is_global_zero
        self.run = Run(folder.path.absolute(), setup.plan.resolved(), setup.steps, setup.epochs.steps)
        self.observers = Observers(plugins, self.run, Display(setup.steps, setup.epochs.steps), self.is_first)
        self.usage = Usage.from_status(folder.status())

    def started(self) -> None:
        """Report that the run starts, or continues from another step."""
        self.run.step = self.state.step
        self.observers.call("sslkit_run_started")

    def finished(self, error: BaseException | None) -> None:
        """Report that the run has ended."""
        self.observers.call("sslkit_run_finished", error=error)

    def step(self, terms: dict[str, float]) -> None:
        """Show and log a step, after adding what else is known of it to its terms."""
        state, setup = self.state, self.setup
        measured = state.monitors.due(state.step)
        terms |= {f"sampler.{name}": value for name, value in state.counts.means.items()}
        if setup.epochs.skipped:
            terms["rollbacks"] = len(setup.epochs.skipped)
        if state.bad.reasons:
            terms["bad_images"] = len(state.bad.reasons)
        if display := self.observers.display:
            eta = (setup.steps - state.step) * setup.recipe.batch_size / terms["images_per_s"]
            shown = {name: terms[name] for name in terms if not is_measured(name)} if measured else terms
            display.update(state.step, shown, terms["images_per_s"], terms["waiting"], eta)
        measured = measured or any(name.startswith(PROBE_TERM) for name in terms)
        if measured or state.step % setup.options.log_every == 0 or state.step == setup.steps:
            self.run.step = state.step
            self.observers.call("sslkit_step_finished", step=state.step, terms=terms)

    def checkpoint_started(self) -> None:
        """Report that a checkpoint is about to be written: records of its steps must be on the disk before it is."""
        self.observers.call("sslkit_checkpoint_started", step=self.state.step)

    def checkpoint(self, path: Path) -> None:
        """Report a new checkpoint."""
        self.status("running")
        self.observers.call("sslkit_checkpoint_saved", step=self.state.step, path=path)

    def bad_images(self, news: list[str] | None) -> None:
        """Name images that could not be used, and write the list of all of them; do nothing without news."""
        if news is None:
            return
        self.observers.note(*news)
        if self.is_first:
            self.write(BAD_IMAGES, self.state.bad.rows(self.setup.source.key))

    def collapse(self, alarm: Alarm) -> None:
        """Record a collapse."""
        if self.is_first:
            values = {name: repr(value) for name, value in alarm.values.items()}
            record = {"step": alarm.step, "sign": alarm.sign, "values": values, "message": alarm.message}
            self.folder.write(collapsed_name(alarm.step), record)

    def status(self, state: str) -> None:
        """Write the run's step and usage into its status."""
        if self.is_first and self.folder.path.exists():
            where: Mapping[str, Any] = {"state": state, "step": self.state.step, "steps": self.setup.steps}
            self.write(STATUS, {**where, **self.usage.status(self.setup.device)})

    def write(self, name: str, value: Any) -> None:
        """Write a file that the run can do without, or warn that it cannot be written."""
        try:
            self.folder.write(name, value)
        except StorageError as error:
            self.observers.note(f"warning: {error}")
