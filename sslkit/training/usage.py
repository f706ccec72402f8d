"""Count what a run has used so far, over all of its sessions: time, images and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

_KEYS = ("seconds", "step_seconds", "images", "peak_memory")


@dataclass
class Usage:
    """Time, images and memory of a run; part of its status.

    Attributes:
        seconds: Wall-clock time of earlier sessions, from opening the data to the last probe.
        step_seconds: The part of it that optimizer steps took, including waiting for data.
        images: Images trained on; steps that were lost in a crash and repeated count twice.
        peak_memory: Bytes: of the GPU if there is one, else of the process (loader workers are not counted).
        started: When this session began, on the monotonic clock.
    """

    seconds: float = 0.0
    step_seconds: float = 0.0
    images: int = 0
    peak_memory: int = 0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> Usage:
        """Continue from what an earlier session wrote into the run's status."""
        return cls(**{name: status[name] for name in _KEYS if name in status})

    def add_step(self, seconds: float, images: int) -> None:
        """Count one optimizer step."""
        self.step_seconds += seconds
        self.images += images

    def status(self, device: torch.device) -> dict[str, Any]:
        """Return the entries of the status."""
        self.peak_memory = max(self.peak_memory, _peak(device))
        return {
            "seconds": round(self.seconds + time.monotonic() - self.started, 3),
            "step_seconds": round(self.step_seconds, 3),
            "images": self.images,
            "peak_memory": self.peak_memory,
        }


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
