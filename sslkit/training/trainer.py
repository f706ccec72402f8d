"""Train a plan: read from top to bottom."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from sslkit.contracts.blame import words
from sslkit.data.loader import Loader
from sslkit.data.opening import prepare
from sslkit.errors import DataError, DivergedError, PreemptedError, SslkitError, StorageError
from sslkit.networks import sharding
from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.plugins import Plugins
from sslkit.storage.run_folder import FAILED, STATUS, RunFolder, remove_empty
from sslkit.training import flight_record
from sslkit.training.checkpointer import Checkpointer
from sslkit.training.divergence import CollapsedError, NonFiniteError
from sslkit.training.hardware import launch
from sslkit.training.online_probes import OnlineProbes
from sslkit.training.options import RunOptions
from sslkit.training.precision import settle
from sslkit.training.probes import RunProbes
from sslkit.training.processes import launcher_rank, watching
from sslkit.training.reporter import Reporter
from sslkit.training.result import Result, finished
from sslkit.training.setup import Setup, set_up
from sslkit.training.step import TrainStep


class TooManyBadImagesError(DataError):
    """More images cannot be used than the recipe allows."""


def train(plan: Plan, recipe_file: RecipeFile, plugins: Plugins, folder: RunFolder, options: RunOptions) -> Result:
    """Train a plan in its folder, from the newest checkpoint if there is one.

    Raises:
        RecipeError: A different recipe trained in this folder.
        DataError: Data or proposals are missing or unreadable.
        DivergedError: A loss or gradient is not finite and the optimizer step was not taken, or the features collapsed.
        PreemptedError: A signal asked to stop; a checkpoint was written.
        PeerError: Another process of the run died.
    """
    folder.refuse_other(plan.resolved())
    if folder.status().get("state") == "finished":
        return finished(folder)
    with _locked(folder):
        folder.remove_other(plan.resolved())
        plan, note = settle(plan, options, folder, plugins)
        fabric = launch(plan, options)
        with watching(fabric):
            with fabric.rank_zero_first():
                source, proposals = prepare(plan, recipe_file)
            setup = set_up(plan, options, fabric, source, proposals)
            return Trainer(setup, recipe_file, plugins, folder, note).run()


@contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Lock the folder on rank 0, and write there why a run failed; one that is refused before it begins leaves none."""
    if launcher_rank():
        yield
        return
    new = [path for path in (folder.path, *folder.path.parents) if not os.path.exists(path)]  # noqa: PTH110 - long names
    with folder.locked():
        try:
            yield
        except PreemptedError:
            raise
        except Exception as error:
            if new and isinstance(error, SslkitError) and not folder.recipe.exists():
                remove_empty(new)
                raise
            reason = words(error)
            with suppress(StorageError, DataError):  # the first error is the one to report
                failure = {"state": "failed", "reason": reason, "code": getattr(error, "exit_code", 1)}
                folder.write(STATUS, {**folder.status(), **failure})
                folder.write_text(FAILED, traceback.format_exc())
            raise


class Trainer:
    """One run, from its current step to its end.

    Args:
        setup: The networks, optimizer and batches of the run.
        recipe_file: The recipe as it was written.
        plugins: The plugins whose reporting hooks are called.
        folder: The run's folder.
        precision: A note about the precision, which is shown when the run begins.
    """

    def __init__(
        self, setup: Setup, recipe_file: RecipeFile, plugins: Plugins, folder: RunFolder, precision: str = ""
    ) -> None:
        self.precision = precision
        self.setup, self.recipe_file, self.folder = setup, recipe_file, folder
        self.options, self.is_first = setup.options, setup.fabric.is_global_zero
        self.train_step = TrainStep(setup)
        self.state, self.interrupt = self.train_step.state, self.train_step.interrupt
        self.reporter = Reporter(setup, self.state, folder, plugins)
        self.note = self.reporter.observers.note
        self.checkpointer = Checkpointer(folder, setup, self.state, self.note)
        self.probes = RunProbes(setup, self.state, folder, self.reporter.observers)
        self.online_probes = OnlineProbes(setup, self.state, folder, self.reporter.observers)
        self.unsaved: str | None = None

    def run(self) -> Result:
        """Resume, train, probe, and leave the final status in the folder."""
        started = time.monotonic()
        self.checkpointer.resume()
        result = Result(self.folder.path, "finished", self.state.step, self.setup.steps, resumed_from=self.state.step)
        self.begin()
        error: BaseException | None = None
        try:
            self.reporter.started()
            with self.interrupt.listening():
                result.terms = self.loop()
            if self.outcome() == "finished":
                self.probes.after()
        except (PreemptedError, DivergedError, TooManyBadImagesError) as caught:  # raised on every rank
            error = caught
            if self.is_first:  # the others end with 0: launchers would end rank 0, which may write
                raise
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.reporter.status(self.outcome(error))
            self.reporter.finished(error)
        result.step, result.state, result.seconds = self.state.step, self.outcome(error), time.monotonic() - started
        result.bad, result.probes = len(self.state.bad.reasons), self.probes.scores
        result.rank = self.setup.fabric.global_rank
        return result

    def begin(self) -> None:
        """Write the recipe and the environment, note the precision, and run the probes that come before training."""
        if self.is_first:
            fabric = self.setup.fabric
            self.folder.start(self.setup.plan, self.recipe_file, fabric.world_size, str(fabric.device))
        if self.precision:
            self.note(self.precision)
        if self.setup.is_sharded:
            self.note(sharding.describe(self.setup.network))
        self.probes.before()
        self.online_probes.before(self.probes.evaluator)

    def outcome(self, error: BaseException | None = None) -> str:
        """Return "failed" after an error, "finished" at the last step, "stopped" before it or when interrupted."""
        if isinstance(error, Exception) and not isinstance(error, PreemptedError):
            return "failed"
        return "finished" if error is None and self.state.step >= self.setup.steps else "stopped"

    # ------------------------------------------------------------------------------------------------ the loop

    def loop(self) -> dict[str, float]:
        """Take optimizer steps to the end or until asked to stop; roll back if the options say so."""
        stop = min(self.setup.steps, self.options.stop_after or self.setup.steps)
        if self.options.on_divergence == "rollback" and self.state.step == 0:
            self.save()
        self.setup.network.train()
        with self.reporter.observers.showing(self.state.step):
            while True:
                try:
                    return self.steps_until(stop)
                except NonFiniteError as error:
                    self.roll_back(error)

    def steps_until(self, stop: int) -> dict[str, float]:
        """Take optimizer steps; return the terms of the last one."""
        terms: dict[str, float] = {}
        with self.setup.loader(self.state.step, stop) as loader:
            while self.state.step < stop:
                terms = self.step(loader)
                terms |= self.online_probes.measure(terms)
                self.reporter.step(terms)
                self.check_bad_images()
                self.check_collapse(terms)
                self.save_when_due(stop)
                if self.interrupt.agreed and self.state.step < stop:  # after the last step, the run finishes
                    raise self.preempted()
        return terms

    def step(self, loader: Loader) -> dict[str, float]:
        """Take one optimizer step, and name the images that it could not use.

        Raises:
            NonFiniteError: A loss or gradient is not finite; a flight record was written.
        """
        started = time.monotonic()
        try:
            terms = self.train_step(loader)
        except NonFiniteError as error:
            self.reporter.bad_images(self.train_step.agreement.take_news())
            error.record = flight_record.write(error, self.train_step, self.checkpointer)
            raise
        self.reporter.usage.add_step(time.monotonic() - started, self.setup.recipe.batch_size)
        self.reporter.bad_images(self.train_step.agreement.take_news())
        if self.state.step > 1 and self.state.monitors.due(self.state.step):
            self.note(*self.state.monitors.refusals())
        return terms

    # ----------------------------------------------------------------------------------------------- in trouble

    def roll_back(self, error: NonFiniteError) -> None:
        """Return to the newest checkpoint, to skip the batch that diverged.

        Raises:
            NonFiniteError: The options do not ask for it, or their limit is reached.
        """
        epochs = self.setup.epochs
        skipped = (*epochs.skipped, epochs.batch_index(self.state.step))
        if self.options.on_divergence == "stop":
            raise error
        if len(skipped) > self.options.max_rollbacks:
            error.advice = f"\n    batches were skipped {len(skipped) - 1} times, the limit of --max-rollbacks"
            raise error
        self.train_step.engine.zero_grad()
        self.checkpointer.resume()
        epochs.skipped = tuple(sorted(skipped))
        self.note(
            f"warning: step {error.step} was not finite; back to step {self.state.step}, without the batch of that "
            f"step (rollback {len(skipped)} of at most {self.options.max_rollbacks})"
        )
        self.reporter.started()

    def preempted(self) -> PreemptedError:
        """Say which signal stopped the run, where, and from where it resumes."""
        where = f"after step {self.state.step} of {self.setup.steps}"
        unsaved = f"\n    {self.unsaved}: it resumes from an older checkpoint" if self.unsaved else ""
        return PreemptedError(f"stopped by {self.interrupt.signal} {where}; the same command resumes{unsaved}")

    def check_bad_images(self) -> None:
        """End the run where more images are bad than the recipe allows.

        Raises:
            TooManyBadImagesError: More images are bad; a checkpoint was written.
        """
        if too_many := self.state.bad.too_many():
            self.save()
            raise TooManyBadImagesError(too_many)

    def check_collapse(self, terms: Mapping[str, float]) -> None:
        """Warn if the features have collapsed, or end the run then.

        Raises:
            CollapsedError: The features have collapsed, and `on_collapse` is "stop"; a checkpoint was written.
        """
        stops = self.options.on_collapse == "stop"
        alarm = self.state.collapse.update(self.state.step, terms, once=not stops)
        if alarm is None:
            return
        self.reporter.collapse(alarm)
        if stops:
            self.save()
            raise CollapsedError(f"{alarm.message}\n    the checkpoint of this step is in {self.folder.checkpoints}")
        self.note(f"warning: {alarm.message}\n    --on-collapse stop ends a run here")

    # ---------------------------------------------------------------------------------------------- checkpoints

    def save_when_due(self, stop: int) -> None:
        """Write a checkpoint at the end of each epoch (or as often as asked), at the end, and before stopping."""
        every = self.options.save_every or self.setup.epochs.steps
        if self.state.step % every == 0 or self.state.step == stop or self.interrupt.agreed:
            self.save()

    def save(self) -> None:
        """Write a checkpoint; if that fails, the older ones are intact and the run continues.

        Raises:
            StorageError: Writing failed after the last step.
        """
        self.reporter.checkpoint_started()
        path, self.unsaved = self.checkpointer.save()
        if path is not None:
            self.reporter.checkpoint(path)
        if self.unsaved is None:
            return
        if self.state.step == self.setup.steps:
            raise StorageError(
                f"{self.unsaved}\n    all {self.setup.steps} steps are done; the same command saves them"
            )
        self.note(f"warning: no checkpoint after step {self.state.step}: {self.unsaved}; the run continues")
