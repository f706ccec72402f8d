"""The card, its driver and clocks, the processor and the versions. This part runs before the others."""

from __future__ import annotations

import shutil
import subprocess

import torch
from speed.timing import machine

from gpu.record import Job

FIELDS = (
    "name", "driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.max.sm", "clocks.mem",
    "clocks.max.mem", "power.limit", "temperature.gpu", "compute_mode", "mig.mode.current",
)  # fmt: skip
"""What nvidia-smi is asked for; see `nvidia-smi --help-query-gpu`."""


def run(job: Job) -> None:
    """Record the conditions."""
    job.record.put(on_gpu=torch.cuda.is_available(), **machine(), torch_build=torch_build())
    job.record.put(card=card(), nvidia_smi=nvidia_smi())


def torch_build() -> str:
    """Return which CUDA and cuDNN torch was built with."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"


def card() -> str | None:
    """Return what torch says of the card, or None without one."""
    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(0)
    gib = about.total_memory / 2**30
    capability = f"compute capability {about.major}.{about.minor}"
    return f"{about.name}, {gib:.0f} GiB, {about.multi_processor_count} multiprocessors, {capability}"


def nvidia_smi(fields: tuple[str, ...] = FIELDS) -> dict[str, str]:
    """Ask nvidia-smi for the first card; without the program, or where it does not answer, return nothing."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, (value.strip() for value in done.stdout.strip().split(",")), strict=False))


def clocks() -> str:
    """Return the card's clocks now, for a part that has just worked; empty where they are not known."""
    now = nvidia_smi(("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"))
    return ", ".join(f"{name} {value}" for name, value in now.items())
