"""What of a run is kept: written into a checkpoint, and taken out of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sslkit import __version__
from sslkit.errors import DataError, StorageError
from sslkit.networks import sharding
from sslkit.planning.plan import Plan
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training.step import Stepper


def trained(stepper: Stepper) -> dict[str, Any]:
    """Return the state of networks and optimizer, whole in the first process; to be called in all of them."""
    optimizer = stepper.optimizer.state_dict()
    for group in optimizer["param_groups"]:
        group.pop("fused", None)  # is of the machine, and not of the run
    state = {"model": stepper.network.state_dict(), "optimizer": optimizer}
    return sharding.whole(state, stepper.fabric.is_global_zero) if stepper.sharded else state


def take(stepper: Stepper, path: Path, state: Mapping[str, Any]) -> None:
    """Put everything that a step depends on back as it was when a checkpoint was written.

    Raises:
        DataError: It holds other networks or optimizers than this version makes of the recipe.
    """
    try:
        stepper.network.load_state_dict(sharding.cut_model(state["model"], stepper.network))
        parameters = [held for group in stepper.optimizer.param_groups for held in group["params"]]
        optimizer = sharding.cut_optimizer(state["optimizer"], parameters)
        optimizer["param_groups"] = [
            {**saved, **({"fused": own["fused"]} if "fused" in own else {})}
            for saved, own in zip(optimizer["param_groups"], stepper.optimizer.param_groups, strict=True)
        ]
        stepper.optimizer.load_state_dict(optimizer)
        stepper.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
        stepper.step, stepper.counts = state["step"], state["counts"]
        stepper.bad.load(state.get("bad_images", {}))
        stepper.epochs.skipped = tuple(state.get("skipped", ()))
        stepper.monitors.load(state.get("windows", {}), stepper.fabric.device)  # older checkpoints have neither
        stepper.sentinel.load(state.get("sentinel", stepper.sentinel.state()))
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise DataError(_misfit(path, state, stepper.plan, error)) from error


class Checkpointer:
    """Writes and reads the checkpoints of a run.

    Args:
        folder: Of the run.
        stepper: What is kept.
        note: Shows lines.
    """

    def __init__(self, folder: RunFolder, stepper: Stepper, note: Callable[..., None]) -> None:
        self.folder, self.stepper, self.note = folder, stepper, note

    def save(self) -> tuple[Path | None, str | None]:
        """Write everything that the next step depends on; random generators are functions of seed and step.

        To be called in all processes.

        Returns:
            The path in the first process, and in all of them what went wrong.
        """
        options, fabric = self.stepper.options, self.stepper.fabric
        state = self.trained()
        every = options.keep_every
        steps = every and every * (options.save_every or self.stepper.epochs.steps)
        path, wrong = None, None
        if fabric.is_global_zero:
            try:
                path = checkpoint.add(self.folder.checkpoints, self.everything(state), options.keep, steps)
            except StorageError as error:
                wrong = str(error)
        return path, fabric.broadcast(wrong)

    def trained(self) -> dict[str, Any]:
        """Return the state of networks and optimizer, whole in the first process; to be called in all of them."""
        return trained(self.stepper)

    def everything(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        stepper = self.stepper
        return {
            **trained,
            "step": stepper.step,
            "processes": stepper.fabric.world_size,
            "listing": stepper.listing,
            "precision": stepper.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
            "counts": stepper.counts,
            "bad_images": stepper.bad.state(),
            "skipped": list(stepper.epochs.skipped),
            "windows": stepper.monitors.state(),
            "sentinel": stepper.sentinel.state(),
            "sslkit": __version__,
            "plugins": stepper.plan.resolved()["plugins"],
            "recipe": self.folder.recipe.read_text(encoding="utf-8"),
        }

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole, where there is one, and say so.

        Raises:
            DataError: It does not fit; or the images are others, and `on_changed_images` is "stop".
        """
        stepper = self.stepper
        found = checkpoint.restore(self.folder.checkpoints)
        if found is not None:
            path, state, wrong = found
            take(stepper, path, state)
            self.note(*(f"warning: {damage}" for damage in wrong))
            self.note(f"resumed from {path} after step {stepper.step} of {stepper.steps}")
            self.compare(state)
        if stepper.fabric.broadcast(stepper.step) != stepper.step:
            raise DataError(f"processes would go on from different checkpoints in {self.folder.checkpoints}")

    def compare(self, state: Mapping[str, Any]) -> None:
        """Say what around the run is not as it was when a checkpoint was written, and changes its numbers.

        Raises:
            DataError: The images are others, and `on_changed_images` is "stop".
        """
        now, listing = self.stepper.fabric.world_size, self.stepper.listing
        then, before = state.get("processes", now), state.get("listing", listing)
        if now != then:
            self.note(
                f"warning: {then} process{'es' * (then > 1)} so far, now {now}: `sslkit verify world-size` shows what "
                "that changes"
            )
        if before == listing:
            return
        counts = f"there were {before['images']}, there are {listing['images']}"
        told = f"the images are not those that the run began with ({counts}): every draw from here on would be another"
        if self.stepper.options.on_changed_images == "stop":
            raise DataError(f"{told}. Put them back, write --arm NAME to begin anew, or --on-changed-images continue")
        self.note(f"warning: {told}")


def _misfit(path: Path, state: Mapping[str, Any], plan: Plan, error: Exception) -> str:
    """Say that a checkpoint does not fit, which versions differ, and what can be done."""
    now = {"sslkit": __version__, **plan.resolved()["plugins"]}
    plugins = state.get("plugins")
    then = {"sslkit": state.get("sslkit", "an unknown version"), **(plugins if isinstance(plugins, dict) else {})}
    changed = [f"{name} {then.get(name, '(none)')} -> {now.get(name, '(none)')}" for name in {**then, **now}
               if then.get(name) != now.get(name)]  # fmt: skip
    by = f"versions differ: {', '.join(changed)}" if changed else "no version differs"
    what = " ".join(str(error).split())
    shown = what if len(what) <= 400 else what[:400] + " ..."
    return (
        f"{path} does not fit what this recipe makes now ({type(error).__name__}: {shown}); {by}. "
        "Go on with the versions that wrote it, or write --arm NAME to train anew beside it"
    )
