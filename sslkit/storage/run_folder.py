"""A run is a folder: what is in it, and whether a recipe may go on in it.

runs/<recipe>/<arm>-s<seed>/
    recipe.toml         resolved
    environment.json    versions, plugins, hardware, git, command: one entry per session
    status.json         running, stopped or finished, and at which step
    metrics.jsonl       written by the logs plugin
    failed.txt          the traceback of what ended it, for who has to repair that
    bad_images.json     what was skipped, with reasons; absent where there was nothing
    checkpoints/        step-00000100.pt, newest.json points to the newest complete one
    probes.json         figures of the frozen backbone
    backbone.safetensors
    diverged-step-00000123/         the flight record of a step that was not finite
    collapsed-step-00000123.json    an alarm of collapse

Names of these files stand here alone; a plugin that writes one has its own constant.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslkit import __version__
from sslkit.errors import RecipeError, StorageError, UsageError
from sslkit.planning import toml

if TYPE_CHECKING:
    from sslkit.planning.plan import Plan
    from sslkit.planning.recipe_file import RecipeFile

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

_PACKAGES = (
    "torch",
    "torchvision",
    "lightly",
    "pytorch-lightning",
    "numpy",
    "pillow",
    "opencv-contrib-python-headless",
)
RECIPE = "recipe.toml"
ENVIRONMENT = "environment.json"
STATUS = "status.json"
METRICS = "metrics.jsonl"
FAILED = "failed.txt"
BAD_IMAGES = "bad_images.json"
CHECKPOINTS = "checkpoints"
PROBES = "probes.json"
WEIGHTS = "backbone.safetensors"
_NOT_COMPARED = ("plugins", "summary", "auto_precision", "on_bad_image", "max_bad_images", "max_bad_share")
"""Words, what a run writes itself, and when to give up: up to there, the numbers are the same."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @classmethod
    def of(cls, base: Path, recipe: str, arm: str, seed: int) -> RunFolder:
        """Return the folder of a recipe's arm and seed."""
        return cls(base / recipe / f"{arm}-s{seed}")

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are kept."""
        return self.path / CHECKPOINTS

    @property
    def weights(self) -> Path:
        """The trained backbone."""
        return self.path / WEIGHTS

    def resolved(self) -> dict[str, Any]:
        """Return the resolved recipe that made what lies here; empty where there is none."""
        return tomllib.loads(self.recipe.read_text(encoding="utf-8")) if self.recipe.exists() else {}

    def refuse_other(self, resolved: Mapping[str, Any]) -> None:
        """Make sure that what lies here was made by this recipe.

        Raises:
            RecipeError: It was made by another one; the message shows every difference.
        """
        if not self.recipe.exists():
            return
        kept = [_compared(values) for values in (self.resolved(), resolved)]
        lines = [f"    {key}: {_shown(a)} -> {_shown(b)}" for key, a, b in toml.differences(*kept)]
        if lines:
            raise RecipeError(
                f"{self.path} was made by a different recipe:\n" + "\n".join(lines)
                + "\n    write --arm NAME to keep both, or move the old folder away"
            )  # fmt: skip

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, so that no other one trains in it; the lock ends with the process.

        Raises:
            UsageError: Another process holds it.
        """
        if fcntl is None:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):  # others: this file system has no locks
                    file.seek(0)
                    raise UsageError(f"{self.path} is in use by {file.read() or 'another process'}") from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield

    @property
    def busy(self) -> bool:
        """Whether another process holds the folder."""
        if not (self.path / ".lock").exists():
            return False
        try:
            with self.locked():
                return False
        except UsageError:
            return True

    def digest(self) -> str | None:
        """Return the hash of the recipe that made this folder, or None where there is none."""
        try:
            return digest(tomllib.loads(self.recipe.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def status(self) -> dict[str, Any]:
        """Return what is known of the run: `state`, `step` and what it has cost; empty for a new one."""
        status: dict[str, Any] = self.read(STATUS, {})
        return status

    def read(self, name: str, default: Any) -> Any:
        """Read one of the folder's JSON files."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else default

    def write(self, name: str, value: Any) -> None:
        """Write one of the folder's JSON files; see `write_text`."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all.

        Raises:
            StorageError: The disk is full or not writable.
        """
        aside = self.path / f".{name}.part"
        try:
            aside.write_text(text, encoding="utf-8")
            aside.replace(self.path / name)
        except OSError as error:
            raise StorageError(f"cannot write {self.path / name}: {error}; an older file is as it was") from error

    def start(self, plan: Plan, text: RecipeFile, world: int, device: str) -> None:
        """Write the resolved recipe and add this session to the environment."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.write_text(RECIPE, toml.dumps(plan.resolved()))
        (self.path / FAILED).unlink(missing_ok=True)
        sessions = self.read(ENVIRONMENT, [])
        overrides = list(text.overrides.values())
        self.write(ENVIRONMENT, [*sessions, environment(plan, overrides, world, device)])


def diverged_name(step: int) -> str:
    """Return the name of the folder with the flight record of a step that was not finite."""
    return f"diverged-step-{step:08d}"


def collapsed_name(step: int) -> str:
    """Return the name of the file that records an alarm of collapse at a step."""
    return f"collapsed-step-{step:08d}.json"


def digest(resolved: Mapping[str, Any]) -> str:
    """Return 16 hex digits for all that a resolved recipe says about numbers: equal runs have equal digests."""
    text = json.dumps(_compared(resolved), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _compared(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _NOT_COMPARED}


def environment(plan: Plan, overrides: list[str], world: int, device: str) -> dict[str, Any]:
    """Describe what a run depends on besides its recipe."""
    import torch

    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "overrides": overrides,
        "sslkit": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "plugins": plan.resolved()["plugins"],
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": device,
            "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
            "processes": world,
            "precision": plan.recipe.auto_precision or plan.recipe.precision,
        },
        "git": _git(),
    }


def _shown(value: Any) -> str:
    return "(absent)" if value is None else json.dumps(value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git() -> str | None:
    """Return the commit of the current folder, "+" appended when it has changes; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],  # noqa: S607
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
