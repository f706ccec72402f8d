"""Measure peak memory on the GPU and in all processes, and bound the memory of waiting batches."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sslkit.data.loader import BATCHES_AHEAD


@dataclass(frozen=True)
class Memory:
    """Memory in bytes.

    Attributes:
        device: Peak of the tensors on the GPU: networks, optimizer, activations and batch; None on a CPU.
        device_total: Memory of the GPU.
        process: Peak resident set of this process; None if the system does not report it.
        workers: Peak resident set of the largest loader process, shared memory included.
        free: Available memory of the machine; None if the system does not report it.
    """

    device: int | None
    device_total: int | None
    process: int | None
    workers: int | None
    free: int | None


def bound(workers: int, batch: int, pinned: bool = False) -> int:
    """Return the largest number of bytes that the batches of one rank take outside the device.

    `BATCHES_AHEAD` batches per loader process are being made or waiting, and one is in use. For a GPU, where batches
    are pinned, each may exist twice.

    Args:
        workers: Loader processes.
        batch: Bytes of a batch.
        pinned: Whether batches are copied into pinned memory.
    """
    return (BATCHES_AHEAD * workers + 1) * batch * (2 if pinned else 1)


def measure(device: torch.device, workers: Sequence[int]) -> Memory:
    """Measure memory while the loader processes still run.

    Args:
        device: Device of the networks; its peak counts from `torch.cuda.reset_peak_memory_stats` on.
        workers: Process ids of the loader processes.
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
    """Return the peak resident set of another process, or None if the system does not report it."""
    return _kilobytes(Path(f"/proc/{process}/status"), "VmHWM")


def free() -> int | None:
    """Return the available memory of this machine, within the limit of this process's control group."""
    available = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    limits = [_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current")]
    if limits[0] is not None and limits[1] is not None:
        left = max(0, limits[0] - limits[1])
        return left if available is None else min(available, left)
    if available is None and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return available


def _kilobytes(file: Path, name: str) -> int | None:
    """Read a line `NAME: N kB`."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(values[0]) if values else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" if there is no limit
        return None
