"""The folder of a run: its files, its lock, and whether a recipe may resume in it.

runs/<recipe>/<arm>-s<seed>/
    recipe.toml         resolved
    environment.json    versions, plugins, hardware, git, command: one entry per session
    status.json         running, stopped or finished, and at which step
    metrics.jsonl       written by the logs plugin
    failed.txt          traceback of the error that ended it, absent after a resume
    bad_images.json     skipped images, with reasons; absent if there are none
    checkpoints/        step-00000100.pt, newest.json points to the newest complete one
    probes.json         scores of the frozen backbone
    online_probes.json  what probes during training measure on, and their baselines; their scores are in metrics.jsonl
    precision_from.json             the run whose choice of precision this one shares, as arms of an ablation do
    backbone.safetensors            weights of the trained backbone
    diverged-step-00000123/         the flight record of a step that was not finite
    collapsed-step-00000123.json    an alarm of collapse

The core takes the names of these files from here; a plugin that writes one has its own constant.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslkit.errors import DataError, RecipeError, StorageError, UsageError
from sslkit.files import make_folder, reason, replace_file
from sslkit.planning import toml
from sslkit.storage.environment import describe_environment
from sslkit.storage.identity import differences, digest
from sslkit.storage.run_name import run_name

if TYPE_CHECKING:
    from sslkit.planning.plan import Plan
    from sslkit.planning.recipe_file import RecipeFile

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

RECIPE = "recipe.toml"
ENVIRONMENT = "environment.json"
STATUS = "status.json"
METRICS = "metrics.jsonl"
FAILED = "failed.txt"
BAD_IMAGES = "bad_images.json"
CHECKPOINTS = "checkpoints"
PROBES = "probes.json"
ONLINE_PROBES = "online_probes.json"
PROBE_TERM = "probe."
"""How the names of online scores start in the metrics: `probe.NAME.METRIC`."""
WEIGHTS = "backbone.safetensors"
_OF_A_RECIPE = (ENVIRONMENT, STATUS, METRICS, FAILED, BAD_IMAGES, PROBES, ONLINE_PROBES, RECIPE)
"""What a run writes before its first step; the recipe goes last."""
_LOCK = ".lock"
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EINVAL)
"""What a file system answers where no file of a run can be."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def of(cls, base: Path, recipe: str, arm: str, seed: int) -> RunFolder:
        """Return the folder of a recipe's arm and seed, which is always inside `base`.

        Raises:
            UsageError: `arm` is not the name of a folder.
        """
        return cls(base / run_name(recipe, arm, seed))

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def weights(self) -> Path:
        """The weights of the trained backbone."""
        return self.path / WEIGHTS

    def make(self) -> None:
        """Create the folder, and check that it can be written.

        Raises:
            UsageError: It cannot be a folder.
            StorageError: Nothing can be written in it.
        """
        make_folder(self.path, "--runs")

    def resolved(self) -> dict[str, Any]:
        """Return the resolved recipe of the run; empty for a new run.

        Raises:
            DataError: It is damaged or cannot be read.
        """
        resolved: dict[str, Any] = self._parsed(RECIPE, tomllib.loads, {})
        return resolved

    def refuse_other(self, resolved: Mapping[str, Any]) -> None:
        """Make sure that the run in this folder has this recipe, or ended before its first step.

        Raises:
            RecipeError: It has a different one; the message shows every difference.
        """
        lines = self._differences(resolved)
        if lines and not self._ended_before_a_step():
            raise RecipeError(
                f"{self.path} was made by a different recipe:\n" + "\n".join(lines)
                + "\n    write --arm NAME to keep both, or move the old folder away"
            )  # fmt: skip

    def remove_other(self, resolved: Mapping[str, Any]) -> None:
        """Remove what a run of another recipe left here that ended before its first step."""
        if self._differences(resolved) and self._ended_before_a_step():
            for name in _OF_A_RECIPE:
                (self.path / name).unlink(missing_ok=True)

    def _differences(self, resolved: Mapping[str, Any]) -> list[str]:
        """Describe how the recipe of the run in this folder differs from another one; empty for a new run."""
        if not (own := self.resolved()):
            return []
        return [f"    {line}" for line in differences(own, resolved)]

    def _ended_before_a_step(self) -> bool:
        """Whether a run has failed or stopped here without a step; one without a status may wait in a queue."""
        status = self.status()
        ended = status.get("state") in ("failed", "stopped") and not status.get("step")
        return ended and not any(self.checkpoints.glob("*.pt"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder, so that no other process trains in it; the lock ends with this process.

        Raises:
            UsageError: Another process has locked it, or it cannot be a folder.
            StorageError: Nothing can be written in it.
        """
        self.make()
        if fcntl is None:
            yield
            return
        with (self.path / _LOCK).open("a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):  # other errors: this file system has no locks
                    file.seek(0)
                    raise UsageError(f"{self.path} is in use by {file.read() or 'another process'}") from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield

    @property
    def busy(self) -> bool:
        """Whether another process has locked the folder."""
        if not (self.path / _LOCK).exists():
            return False
        try:
            with self.locked():
                return False
        except UsageError:
            return True
        except StorageError:  # a folder to be read alone
            return False

    def digest(self) -> str | None:
        """Return the digest of the run's recipe, or None if it cannot be read."""
        try:
            return digest(tomllib.loads(self.recipe.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def status(self) -> dict[str, Any]:
        """Return the status of the run: `state`, `step` and its cost so far; empty for a new run."""
        status: dict[str, Any] = self.read(STATUS, {})
        return status

    def read(self, name: str, default: Any) -> Any:
        """Read one of the folder's JSON files, or return `default` if it is missing.

        Raises:
            DataError: It is damaged or cannot be read.
        """
        return self._parsed(name, json.loads, default)

    def _parsed(self, name: str, parse: Callable[[str], Any], default: Any) -> Any:
        """Read a file, or return `default` if it is not there."""
        file = self.path / name
        try:
            return parse(file.read_text(encoding="utf-8"))
        except OSError as error:
            if error.errno in _NO_FILE:
                return default
            raise DataError(f"{file} cannot be read ({reason(error)})") from None
        except ValueError as error:
            raise DataError(f"{file} is damaged ({reason(error)}): restore it, or move the folder away") from None

    def write(self, name: str, value: Any) -> None:
        """Write one of the folder's JSON files; see `write_text`."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all.

        Raises:
            StorageError: The disk is full or not writable.
        """
        with replace_file(self.path / name) as part:
            part.write_text(text, encoding="utf-8")

    def start(self, plan: Plan, recipe_file: RecipeFile, world: int, device: str) -> None:
        """Write the resolved recipe, and add this session to the list of environments."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.write_text(RECIPE, toml.dumps(plan.resolved()))
        (self.path / FAILED).unlink(missing_ok=True)
        sessions = self.read(ENVIRONMENT, [])
        overrides = list(recipe_file.overrides.values())
        self.write(ENVIRONMENT, [*sessions, describe_environment(plan, overrides, world, device)])


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, each inside the next one, that hold nothing but locks; stop at one that holds more."""
    for folder in folders:
        for lock in folder.glob(".*lock"):
            lock.unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError:
            return


def is_run(folder: str | Path) -> bool:
    """Return whether a path is the folder of a run."""
    return os.path.isfile(Path(folder) / RECIPE)  # noqa: PTH113 - Path.is_file() fails for a name that is too long


def run_at(path: Path, refused: Mapping[str, Any]) -> RunFolder | None:
    """Return the run in a folder, or None if the path is a weights file.

    Args:
        path: A run's folder or a weights file.
        refused: Name -> value of the options for weights files only; empty values are not used.

    Raises:
        DataError: Neither is found.
        UsageError: The folder is not a run's, or an option is for weights files.
    """
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() fails for a name that is too long
        raise DataError(f"{path} is not found: write a run's folder or a weights file")
    if not path.is_dir():
        return None
    if not RunFolder(path).recipe.is_file():
        raise UsageError(f"{path} is not a run's folder: {RECIPE} is missing; write a run's folder or a weights file")
    if used := [name for name, value in refused.items() if value]:
        raise UsageError(f"{', '.join(used)}: for weights files, and {path} is a run's folder")
    return RunFolder(path)


def diverged_name(step: int) -> str:
    """Return the name of the folder with the flight record of a step that was not finite."""
    return f"diverged-step-{step:08d}"


def collapsed_name(step: int) -> str:
    """Return the name of the file that records an alarm of collapse at a step."""
    return f"collapsed-step-{step:08d}.json"
