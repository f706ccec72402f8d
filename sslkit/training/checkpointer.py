"""Write and read the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sslkit import __version__
from sslkit.contracts.backward import failure_by_lines, lines_of
from sslkit.errors import DataError, StorageError
from sslkit.planning.plan import Plan
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training.setup import Setup
from sslkit.training.state import TrainState


def restore(state: TrainState, path: Path, saved: Mapping[str, Any]) -> None:
    """Restore the state of a run from the contents of a checkpoint.

    Raises:
        DataError: Its networks or optimizers are not those that this version builds from the recipe.
        PluginError: A component's own code failed.
    """
    parts = state.setup.network.parts
    try:
        state.load_state_dict(saved)
    except Exception as error:
        if lines_of(error, parts):
            raise failure_by_lines(f"{path} cannot be restored", error, parts, []) from error
        if isinstance(error, (RuntimeError, LookupError, ValueError, TypeError, AttributeError)):
            raise DataError(_misfit(path, saved, state.setup.plan, error)) from error
        raise


class Checkpointer:
    """Write and read the checkpoints of a run.

    Args:
        folder: The run's folder.
        setup: The networks, optimizer and batches of the run.
        state: The state to save and restore.
        note: Shows lines.
    """

    def __init__(self, folder: RunFolder, setup: Setup, state: TrainState, note: Callable[..., None]) -> None:
        self.folder, self.setup, self.state, self.note = folder, setup, state, note

    def save(self) -> tuple[Path | None, str | None]:
        """Write a checkpoint, to be called on all ranks.

        Returns:
            The checkpoint's path on rank 0, and on all ranks what went wrong.
        """
        options, fabric = self.setup.options, self.setup.fabric
        state = self.state.state_dict()
        every = options.keep_every and options.keep_every * (options.save_every or self.setup.epochs.steps)
        path, wrong = None, None
        if fabric.is_global_zero:
            try:
                path = checkpoint.add(self.folder.checkpoints, {**state, **self.about()}, options.keep, every)
            except StorageError as error:
                wrong = str(error)
        return path, fabric.broadcast(wrong)

    def about(self) -> dict[str, Any]:
        """Return what a checkpoint says about its run, besides the state."""
        return {
            "processes": self.setup.fabric.world_size,
            "listing": self.setup.listing,
            "sslkit": __version__,
            "plugins": self.setup.plan.resolved()["plugins"],
            "recipe": self.folder.recipe.read_text(encoding="utf-8"),
        }

    def resume(self) -> None:
        """Restore the newest complete checkpoint, if there is one, and say so.

        Raises:
            DataError: The checkpoint does not fit the recipe, or the images changed and `on_changed_images` is "stop".
        """
        fabric, state = self.setup.fabric, self.state
        newest = checkpoint.restore(self.folder.checkpoints)
        if newest is not None:
            path, saved, damages = newest
            restore(state, path, saved)
            self.note(*(f"warning: {damage}" for damage in damages))
            self.note(f"resumed from {path} after step {state.step} of {self.setup.steps}")
            self.compare(saved)
        if fabric.broadcast(state.step) != state.step:
            raise DataError(f"ranks would resume from different checkpoints in {self.folder.checkpoints}")

    def compare(self, saved: Mapping[str, Any]) -> None:
        """Warn about changes since a checkpoint that alter the run's numbers.

        Raises:
            DataError: The images changed, and `on_changed_images` is "stop".
        """
        now, listing = self.setup.fabric.world_size, self.setup.listing
        then, before = saved.get("processes", now), saved.get("listing", listing)
        if now != then:
            self.note(
                f"warning: {then} rank{'s' * (then > 1)} so far, now {now}: `sslkit verify world-size` shows what "
                "that changes"
            )
        if before == listing:
            return
        counts = f"then {before['images']}, now {listing['images']}"
        message = f"the images are not those that the run began with ({counts}): every further draw would differ"
        if self.setup.options.on_changed_images == "stop":
            raise DataError(f"{message}. Restore them, write --arm NAME for a new run, or --on-changed-images continue")
        self.note(f"warning: {message}")


def _misfit(path: Path, saved: Mapping[str, Any], plan: Plan, error: Exception) -> str:
    """Explain that a checkpoint does not fit, which versions differ, and what to do."""
    now = {"sslkit": __version__, **plan.resolved()["plugins"]}
    plugins = saved.get("plugins")
    then = {"sslkit": saved.get("sslkit", "an unknown version"), **(plugins if isinstance(plugins, dict) else {})}
    changed = [f"{name} {then.get(name, '(none)')} -> {now.get(name, '(none)')}" for name in {**then, **now}
               if then.get(name) != now.get(name)]  # fmt: skip
    versions = f"versions differ: {', '.join(changed)}" if changed else "no version differs, but a plugin's code may"
    reason = " ".join(str(error).split())
    shown = reason if len(reason) <= 400 else reason[:400] + " ..."
    return (
        f"{path} does not fit what this recipe builds now ({type(error).__name__}: {shown}); {versions}. "
        "Resume with the versions that wrote it, or write --arm NAME for a new run beside it"
    )
