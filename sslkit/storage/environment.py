"""Versions, hardware and command of one session of a run."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslkit import __version__

if TYPE_CHECKING:
    from sslkit.planning.plan import Plan

_PACKAGES = (
    "torch",
    "torchvision",
    "lightly",
    "pytorch-lightning",
    "numpy",
    "pillow",
    "opencv-contrib-python-headless",
)


def describe_environment(plan: Plan, overrides: list[str], world: int, device: str) -> dict[str, Any]:
    """Describe what a session depends on besides its recipe: versions, hardware, command and commit."""
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
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": device,
            "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
            "processes": world,
            "precision": plan.recipe.auto_precision or plan.recipe.precision,
            "memory_format": plan.recipe.memory_format,
        },
        "git": _git(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git() -> str | None:
    """Return the commit of the current folder, with "+" appended if it has changes; None outside a repository."""
    try:
        process = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],  # noqa: S607
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
