"""Train a plan: read from top to bottom."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslkit.api import Proposals, Run, Source
from sslkit.data import bad_images
from sslkit.data.loader import Loader
from sslkit.data.opening import prepare
from sslkit.errors import DataError, DivergedError, PreemptedError, SslkitError, StorageError
from sslkit.networks import sharding
from sslkit.networks.monitors import is_measured
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import RecipeFile
from sslkit.plugins import Plugins
from sslkit.probes.evaluate import ProbeScores
from sslkit.progress import Display
from sslkit.storage.run_folder import FAILED, RunFolder
from sslkit.training.checkpointer import Checkpointer
from sslkit.training.divergence import NonFiniteError, recorded
from sslkit.training.hardware import fabric_of, settled, told_of_precision
from sslkit.training.observers import Observers
from sslkit.training.options import RunOptions
from sslkit.training.probes import RunProbes
from sslkit.training.processes import rank_so_far, watched
from sslkit.training.step import NotFinite, Stepper
from sslkit.training.usage import Usage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TooManyBadImagesError(DataError):
    """More images cannot be used than the recipe says."""


@dataclass
class Result:
    """What a run came to.

    Attributes:
        state: "finished", or "stopped" and resumable.
        bad: Images that were skipped.
        probes: "raw pixels", "random weights" and "trained" -> figures.
    """

    folder: Path
    state: str
    step: int
    steps: int
    terms: dict[str, float] = field(default_factory=dict)
    probes: dict[str, ProbeScores] = field(default_factory=dict)
    seconds: float = 0.0
    rank: int = 0
    resumed_from: int = 0
    bad: int = 0


def train(plan: Plan, text: RecipeFile, plugins: Plugins, folder: RunFolder, options: RunOptions) -> Result:
    """Train a plan in its folder, from the newest checkpoint where there is one.

    Raises:
        RecipeError: The folder was made by a different recipe.
        DataError: Data or proposals are missing or unreadable.
        DivergedError: A loss or gradient is not finite; the optimizer step was not made.
        PreemptedError: A signal asked to stop; a checkpoint was written.
        PeerError: Another process of the run died.
    """
    plan = settled(plan, options.accelerator, folder.resolved())
    folder.refuse_other(plan.resolved())
    if folder.status().get("state") == "finished":
        return finished(folder)
    with _held(folder):
        fabric = fabric_of(plan, options)
        with watched(fabric):
            with fabric.rank_zero_first():
                source, proposals = prepare(plan, text)
            return Trainer(plan, text, plugins, folder, options, fabric, source, proposals).run()


@contextmanager
def _held(folder: RunFolder) -> Iterator[None]:
    """Hold the folder in the first process, and note there why a run failed."""
    if rank_so_far():
        yield
        return
    with folder.locked():
        try:
            yield
        except PreemptedError:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, SslkitError) else f"{type(error).__name__}: {error}"
            with suppress(StorageError):  # what went wrong first is told
                told = {"state": "failed", "reason": reason, "code": getattr(error, "exit_code", 1)}
                folder.write("status.json", {**folder.status(), **told})
                folder.write_text(FAILED, traceback.format_exc())
            raise


class Trainer:
    """One run, from here to its end."""

    def __init__(
        self, plan: Plan, text: RecipeFile, plugins: Plugins, folder: RunFolder, options: RunOptions,
        fabric: Fabric, source: Source, proposals: Proposals | None,
    ) -> None:  # fmt: skip
        self.plan, self.text, self.folder, self.options, self.fabric = plan, text, folder, options, fabric
        self.stepper = Stepper(plan, options, fabric, source, proposals)
        self.steps, self.steps_per_epoch = self.stepper.steps, self.stepper.epochs.steps
        self.run_info = Run(folder.path, plan.resolved(), self.steps, self.steps_per_epoch)
        display = Display(self.steps, self.steps_per_epoch)
        self.observers = Observers(plugins, self.run_info, display, fabric.is_global_zero)
        self.note, self.tell = self.observers.note, self.observers.tell
        self.keeper = Checkpointer(folder, self.stepper, self.note)
        self.probed = RunProbes(self.stepper, folder, self.observers)
        self.spent = Usage.so_far(folder.status())
        self.unsaved: str | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.stepper.step

    def run(self) -> Result:
        """Resume, train, probe, and leave the folder in a state that says where it is."""
        started, first = time.monotonic(), self.fabric.is_global_zero
        self.resume()
        result = Result(self.folder.path, "finished", self.step, self.steps, resumed_from=self.step)
        result.rank = self.fabric.global_rank
        if first:
            self.folder.start(self.plan, self.text, self.fabric.world_size, str(self.fabric.device))
        self.note(told_of_precision(self.plan.recipe, self.options.accelerator))
        if self.stepper.sharded:
            self.note(sharding.told(self.stepper.network))
        self.probed.before()
        error: BaseException | None = None
        try:
            self.tell("sslkit_run_started")
            with self.stepper.stop.heard():
                result.terms = self.loop()
            self.end()
        except (PreemptedError, DivergedError, TooManyBadImagesError) as caught:  # raised in every process
            error = caught
            if first:  # the others end with 0: launchers would end the first one, which may write
                raise
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.status(self.state(error))
            self.tell("sslkit_run_finished", error=error)
        result.step, result.state, result.seconds = self.step, self.state(error), time.monotonic() - started
        result.bad, result.probes = len(self.stepper.bad.reasons), self.probed.figures
        return result

    def state(self, error: BaseException | None = None) -> str:
        """Return "failed" behind an error, "finished" at the last step, "stopped" before it or when interrupted."""
        if isinstance(error, Exception) and not isinstance(error, PreemptedError):
            return "failed"
        return "finished" if error is None and self.step >= self.steps else "stopped"

    def end(self) -> None:
        """Write and measure what was trained, where that is all."""
        if self.state() == "finished":
            self.probed.after()

    # ------------------------------------------------------------------------------------------- the loop

    def loop(self) -> dict[str, float]:
        """Take optimizer steps to the end, or to where we are asked to stop; go back where that is wanted."""
        stop = min(self.steps, self.options.stop_after or self.steps)
        if self.options.on_divergence == "rollback" and self.step == 0:
            self.save()
        self.stepper.network.train()
        with self.observers.shown(self.step):
            while True:
                try:
                    return self.steps_until(stop)
                except NonFiniteError as error:
                    self.roll_back(error)

    def steps_until(self, stop: int) -> dict[str, float]:
        """Take optimizer steps; return what the last one told."""
        terms: dict[str, float] = {}
        with self.stepper.feed(stop) as feed:
            while self.step < stop:
                terms = self.one_step(feed)
                self.report(terms)
                self.give_up_on_bad_images()
                self.watch(terms)
                self.save_when_due(stop)
                if self.stepper.stop.agreed and self.step < stop:  # what is done is done: its weights are to be written
                    raise self.preempted()
        return terms

    def one_step(self, feed: Loader) -> dict[str, float]:
        """Take an optimizer step, and say which images it could not use.

        Raises:
            NonFiniteError: A loss or gradient is not finite; a flight record was written.
        """
        began = time.monotonic()
        try:
            terms = self.stepper.optimizer_step(feed)
        except NotFinite as error:
            self.tell_of_bad_images()
            raise recorded(error, self.keeper) from None
        self.spent.step(time.monotonic() - began, self.plan.recipe.batch_size)
        self.tell_of_bad_images()
        if self.step > 1 and self.stepper.monitors.due(self.step):
            self.note(*self.stepper.monitors.refusals())
        return terms

    def roll_back(self, error: NonFiniteError) -> None:
        """Go back to the newest checkpoint, to leave out the batch that diverged.

        Raises:
            NonFiniteError: That is not wanted, or has been done as often as it may.
        """
        epochs = self.stepper.epochs
        skipped = (*epochs.skipped, epochs.place(self.step))
        if self.options.on_divergence == "stop":
            raise error
        if len(skipped) > self.options.max_rollbacks:
            told = f"{error}\n    batches have been left out {len(skipped) - 1} times, which is all of --max-rollbacks"
            raise NonFiniteError(told) from error
        self.stepper.drop_gradients()
        diverged = self.step + 1
        self.resume()
        epochs.skipped = tuple(sorted(skipped))
        self.note(
            f"warning: step {diverged} was not finite; back to step {self.step}, without the batch of that step "
            f"(rollback {len(skipped)} of at most {self.options.max_rollbacks})"
        )
        self.tell("sslkit_run_started")

    def preempted(self) -> PreemptedError:
        """Say who stopped us, where, and from where it goes on."""
        where = f"after step {self.step} of {self.steps}"
        goes_on = f"\n    {self.unsaved}: it goes on from an older checkpoint" if self.unsaved else ""
        return PreemptedError(f"stopped by {self.stepper.stop.signal} {where}; the same command goes on{goes_on}")

    def tell_of_bad_images(self) -> None:
        """Say which images could not be used since we said so last, and write down all of them."""
        said, self.stepper.said = self.stepper.said, None
        if said is None:
            return
        self.note(*said)
        if self.fabric.is_global_zero:
            self.keep(bad_images.FILE, self.stepper.bad.rows(self.stepper.source.key))

    def give_up_on_bad_images(self) -> None:
        """End the run where more images are bad than it may skip.

        Raises:
            TooManyBadImagesError: They are; a checkpoint was written.
        """
        if too_many := self.stepper.bad.too_many():
            self.save()
            raise TooManyBadImagesError(too_many)

    def watch(self, terms: Mapping[str, float]) -> None:
        """Say where the features have collapsed, and end the run there when asked to.

        Raises:
            DivergedError: They have, and `on_collapse` is "stop"; a checkpoint was written.
        """
        stops = self.options.on_collapse == "stop"
        alarm = self.stepper.sentinel.see(self.step, terms, once=not stops)
        if alarm is None:
            return
        if self.fabric.is_global_zero:
            values = {name: repr(value) for name, value in alarm.values.items()}
            told = {"step": alarm.step, "sign": alarm.sign, "values": values, "message": alarm.message}
            self.folder.write(f"collapsed-step-{alarm.step:08d}.json", told)
        if stops:
            self.save()
            raise DivergedError(f"{alarm.message}\n    the checkpoint of this step is in {self.folder.checkpoints}")
        self.note(f"warning: {alarm.message}\n    --on-collapse stop ends a run here")

    # ------------------------------------------------------------------------------------ what is kept

    def report(self, terms: dict[str, float]) -> None:
        """Show and log a step."""
        measured = self.stepper.monitors.due(self.step)
        terms |= {f"sampler.{name}": value for name, value in self.stepper.counts.items()}
        if self.stepper.epochs.skipped:
            terms["rollbacks"] = len(self.stepper.epochs.skipped)
        if self.stepper.bad.reasons:
            terms["bad_images"] = len(self.stepper.bad.reasons)
        if display := self.observers.display:
            eta = (self.steps - self.step) * self.plan.recipe.batch_size / terms["images_per_s"]
            shown = {name: terms[name] for name in terms if not is_measured(name)} if measured else terms
            display.update(self.step, shown, terms["images_per_s"], terms["waiting"], eta)
        if measured or self.step % self.options.log_every == 0 or self.step == self.steps:
            self.run_info.step = self.step
            self.tell("sslkit_step_finished", step=self.step, terms=terms)

    def save_when_due(self, stop: int) -> None:
        """Write a checkpoint at every epoch's end (or as often as asked), at the end, and before stopping."""
        every = self.options.save_every or self.steps_per_epoch
        if self.step % every == 0 or self.step == stop or self.stepper.stop.agreed:
            self.save()

    def save(self) -> None:
        """Write a checkpoint; see `Checkpointer.save`.

        Where that fails, the older checkpoints are as they were and the run goes on: the next one may succeed.

        Raises:
            StorageError: It failed behind the last step, so that there is no next one.
        """
        path, self.unsaved = self.keeper.save()
        if path is not None:
            self.status("running")
            self.tell("sslkit_checkpoint_saved", step=self.step, path=path)
        if self.unsaved is None:
            return
        if self.step == self.steps:
            raise StorageError(f"{self.unsaved}\n    all {self.steps} steps are done; the same command saves them")
        self.note(f"warning: no checkpoint after step {self.step}: {self.unsaved}; the run goes on")

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole, where there is one; see `Checkpointer.resume`."""
        self.keeper.resume()
        self.run_info.step = self.step

    def status(self, state: str) -> None:
        """Write where the run is and what it has cost, in the first process."""
        if self.fabric.is_global_zero and self.folder.path.exists():
            told = {"state": state, "step": self.step, "steps": self.steps, **self.spent.told(self.fabric.device)}
            self.keep("status.json", told)

    def keep(self, name: str, value: Any) -> None:
        """Write a file that the run can do without, or say that it cannot be written."""
        try:
            self.folder.write(name, value)
        except StorageError as error:
            self.note(f"warning: {error}")


def finished(folder: RunFolder) -> Result:
    """Return what a run came to that ended some time ago."""
    status = folder.status()
    return Result(
        folder.path, "finished", status["step"], status["steps"], probes=folder.read("probes.json", {}),
        seconds=status.get("seconds", 0.0), rank=rank_so_far(),
        resumed_from=status["step"], bad=len(folder.read(bad_images.FILE, [])),
    )  # fmt: skip
