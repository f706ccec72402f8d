"""What `precision = "auto"` means for a run: chosen once, recorded in its recipe, and the same for all arms.

On a CPU, the precision and the memory format are those of the fastest of a few timed steps (`sslkit.training.trial`).
On other devices, with several ranks and with `--compile`, a rule chooses the precision: bfloat16 where it is fast.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from sslkit.errors import SslkitError, StorageError
from sslkit.planning import recipe_file, toml
from sslkit.planning.plan import Plan
from sslkit.planning.planner import make_plan
from sslkit.plugins import Plugins
from sslkit.storage.run_folder import RECIPE, RunFolder
from sslkit.training import hardware
from sslkit.training.options import DeviceOptions
from sslkit.training.processes import launcher_rank, started_together
from sslkit.training.remembered import machine_and_work, recall, remember
from sslkit.training.trial import BFLOAT16, FLOAT32, Mode, NoOutcomeError, Outcome, run_trial

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

VARIABLE = "SSLKIT_AUTO_PRECISION"
"""An environment variable; "rule" chooses by the rule on CPUs, too, without timing anything."""
SAME_AS = "precision_from.json"
"""In a run's folder: the run whose precision this one shares, as arms of an ablation do."""
_LOCK = ".precision.lock"
_PATIENCE_S = 120.0
_POLL_S = 0.1


@dataclass(frozen=True)
class AutoChoice:
    """What "auto" means for a run.

    Attributes:
        memory_format: None where the rule chose: channels last.
        reason: Why, in words; empty where the rule alone decides, or an earlier session of the run did.
    """

    precision: str
    memory_format: str | None = None
    reason: str = ""

    def __str__(self) -> str:
        return ", ".join([self.precision, *([self.memory_format.replace("-", " ")] if self.memory_format else [])])

    @property
    def keys(self) -> dict[str, str]:
        """The keys of a recipe that record it."""
        keys = {"auto_precision": self.precision, "auto_memory_format": self.memory_format}
        return {name: value for name, value in keys.items() if value}


# ------------------------------------------------------------------------------------------------------- a run


def settle(plan: Plan, options: DeviceOptions, folder: RunFolder, plugins: Plugins) -> tuple[Plan, str]:
    """Return a plan whose precision and memory format no longer depend on the machine, and a note about them.

    A run that resumes keeps what it began with. The arms of an ablation share one choice, which the first of them to
    start makes with the networks of the full recipe.

    Args:
        plan: Plan of the run.
        options: Devices of the run.
        folder: The run's folder.
        plugins: Plugins to plan the full recipe from.
    """
    if plan.recipe.precision != "auto":
        return plan, f"precision {plan.recipe.precision}"
    begun = recorded(folder.resolved()) or recorded(vars(plan.recipe))
    if begun is not None:
        return with_choice(plan, begun), _note_of_begun(begun, plan, options)
    leader = _leader(folder)
    if not leader.recipe.exists():
        choice = choose(plan, options)
        return with_choice(plan, choice), f"precision {choice} (auto{': ' * bool(choice.reason)}{choice.reason})"
    with _locked(leader):
        shared = recorded(leader.resolved())
        choice = shared or choose(_plan_of(leader, plugins) or plan, options)
        if shared is None and not launcher_rank():
            _record(leader, choice)
    reason = "the same for all arms" if shared else choice.reason
    return with_choice(plan, choice), f"precision {choice} (auto{': ' * bool(reason)}{reason})"


def settle_alone(plan: Plan, options: DeviceOptions) -> Plan:
    """Return a plan with the choice that a new run of it would make here: for what trains no run."""
    if plan.recipe.precision != "auto":
        return plan
    return with_choice(plan, recorded(vars(plan.recipe)) or choose(plan, options))


def with_choice(plan: Plan, choice: AutoChoice) -> Plan:
    """Return a plan whose recipe records what "auto" chose."""
    return replace(plan, recipe=plan.recipe.model_copy(update=choice.keys))


def recorded(resolved: Mapping[str, Any]) -> AutoChoice | None:
    """Return the choice that a resolved recipe records; None if the run has not begun."""
    precision = resolved.get("auto_precision")
    return AutoChoice(precision, resolved.get("auto_memory_format")) if precision else None


def _note_of_begun(begun: AutoChoice, plan: Plan, options: DeviceOptions) -> str:
    """Say which precision a run began with, and whether this machine is known to choose another one."""
    if is_timed(options) and recalled(plan) is None:
        impossible = begun.precision == "bf16-mixed" and not hardware.fast_at_bf16("cpu")
        other = "32-true" if impossible else begun.precision
    else:
        here = choose(plan, options)
        other = str(here) if begun.memory_format and here.memory_format else here.precision
    same = other in (str(begun), begun.precision)
    resumed = "" if same else f': the run began with it; "auto" would be {other} on this machine'
    return f"precision {begun} (auto){resumed}"


# ----------------------------------------------------------------------------------------------------- choosing


def choose(plan: Plan, options: DeviceOptions) -> AutoChoice:
    """Choose the precision, and on a CPU the memory format, of a new run on this machine."""
    if not is_timed(options):
        return by_rule(options)
    outcome, modes = recalled(plan), _modes()
    if outcome is None:
        try:
            outcome = run_trial(plan, modes)
        except NoOutcomeError as error:
            return by_rule(options, f"by rule: {error}")
        remember(machine_and_work(plan, modes), outcome)
    return AutoChoice(outcome.choice.precision, outcome.choice.memory_format, outcome.reason)


def by_rule(options: DeviceOptions, reason: str = "") -> AutoChoice:
    """Return the rule's choice: bfloat16 where it is fast."""
    return AutoChoice("bf16-mixed" if hardware.fast_at_bf16(options.accelerator) else "32-true", reason=reason)


def recalled(plan: Plan) -> Outcome | None:
    """Return the outcome of an earlier trial of such a plan on this machine; None if there is none."""
    return recall(machine_and_work(plan, _modes()))


def _modes() -> tuple[Mode, ...]:
    """Return the modes that can be fast on this CPU."""
    return (*FLOAT32, *BFLOAT16) if hardware.fast_at_bf16("cpu") else FLOAT32


def is_timed(options: DeviceOptions) -> bool:
    """Return whether a trial chooses: for one rank on a CPU, which computes without `--compile`."""
    on_cpu = options.accelerator == "cpu" or (options.accelerator == "auto" and not torch.cuda.is_available())
    one_rank = options.devices in ("auto", "1") and options.nodes == 1 and started_together()[0] == 1
    plain = not getattr(options, "compile", False) and options.strategy == "auto"
    return on_cpu and one_rank and plain and os.environ.get(VARIABLE, "") != "rule"


# -------------------------------------------------------------------------------------- the arms of an ablation


def share(folder: RunFolder, leader: RunFolder) -> None:
    """Let the run in a folder compute as another one does, unless it has begun.

    Args:
        folder: Folder of the run.
        leader: Folder of the run to follow, with a resolved recipe.
    """
    if folder.path != leader.path and recorded(folder.resolved()) is None:
        folder.write(SAME_AS, {"run": os.path.relpath(leader.path, folder.path)})


def _leader(folder: RunFolder) -> RunFolder:
    """Return the folder of the run that this one follows, if that still exists; else its own."""
    followed = folder.read(SAME_AS, {}).get("run")
    leader = RunFolder(Path(os.path.normpath(folder.path / followed))) if followed else folder
    return leader if leader.recipe.exists() else folder


def _plan_of(folder: RunFolder, plugins: Plugins) -> Plan | None:
    """Plan the recipe of a run; None if that is not possible here."""
    with suppress(SslkitError):  # a damaged file, or a plugin that fails; the arm then stands for the full recipe
        recipe, _ = recipe_file.check_structure(recipe_file.read(folder.recipe))
        return make_plan(recipe, plugins)[0] if recipe is not None else None
    return None


def _record(folder: RunFolder, choice: AutoChoice) -> None:
    """Record a choice in the recipe of a run that has not begun."""
    with suppress(StorageError):  # the run then chooses again, with what the machine remembers
        folder.write_text(RECIPE, toml.dumps({**folder.resolved(), **choice.keys}))


@contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Wait until no other run chooses for the same arms; continue without a lock where there are none."""
    if fcntl is None:
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # the folder cannot be written, or its file system has no locks
            file = stack.enter_context((folder.path / _LOCK).open("a"))
            ends = time.monotonic() + _PATIENCE_S
            while not _lock(file) and time.monotonic() < ends:
                time.sleep(_POLL_S)
        yield


def _lock(file: IO[str]) -> bool:
    """Lock a file until it is closed; return False if another process has locked it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True
