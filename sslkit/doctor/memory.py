"""Peak memory: of the GPU, of this process and its loader processes, and the bound of what they hold ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sslkit.data.loader import AHEAD


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        device: Peak of what the networks, their step and the batch took on the GPU; None on a CPU.
        device_total: Of the GPU.
        process: Peak resident set of this process; None where the system does not tell.
        workers: Peak resident set of the largest loader process; what it shares with others is counted in each.
        free: Memory of the machine that is available; None where the system does not tell.
    """

    device: int | None
    device_total: int | None
    process: int | None
    workers: int | None
    free: int | None


def bound(workers: int, batch: int, pinned: bool = False) -> int:
    """Return how many bytes of batches a process of a run holds at most, besides what is on the device.

    `AHEAD` batches for each loader process are in the making or wait, and one is being used; where batches are pinned,
    for a GPU, each may be there twice.

    Args:
        workers: Loader processes.
        batch: Bytes of a batch.
        pinned: Whether batches are copied into pinned memory.
    """
    return (AHEAD * workers + 1) * batch * (2 if pinned else 1)


def measure(device: torch.device, workers: Sequence[int]) -> Memory:
    """Measure while the loader processes still run.

    Args:
        device: Of the networks; its peak counts from `torch.cuda.reset_peak_memory_stats` on.
        workers: Process ids.
    """
    on_gpu = device.type == "cuda"
    peaks = [peak for peak in map(_peak_of, workers) if peak]
    return Memory(
        device=torch.cuda.max_memory_allocated(device) if on_gpu else None,
        device_total=torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        process=_own_peak(),
        workers=max(peaks, default=None),
        free=free(),
    )


def _own_peak() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_of(process: int) -> int | None:
    """Return the peak resident set of another process, where the system tells."""
    return _kilobytes(Path(f"/proc/{process}/status"), "VmHWM")


def free() -> int | None:
    """Return the memory of this machine that is available, within this process' control group."""
    found = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    limits = [_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current")]
    if limits[0] is not None and limits[1] is not None:
        left = max(0, limits[0] - limits[1])
        return left if found is None else min(found, left)
    if found is None and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return found


def _kilobytes(file: Path, name: str) -> int | None:
    """Read a line `NAME: N kB`."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0]) if found else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max", where there is no limit
        return None
