"""Options of a run: how and where it is trained. None of them changes its numbers; those that do are in the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Devices that a run is trained on.

    Attributes:
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: Devices per node; "auto" takes all GPUs, or one CPU process.
        nodes: Machines.
        strategy: "auto", "ddp" or "fsdp".
    """

    accelerator: str = "auto"
    devices: str = "auto"
    nodes: int = 1
    strategy: str = "auto"


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How images are loaded.

    Attributes:
        workers: Loader processes per device; None chooses by the number of cores.
        cache_gb: Memory for decoded images, gigabytes per machine.
    """

    workers: int | None = None
    cache_gb: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is computed.

    Attributes:
        compile: Let torch compile the backbones.
        checkpoint_activations: Store only the inputs of a backbone's blocks, and compute the rest again for the
            backward pass.
        cuda_graph: Record a step's forward and backward passes as a CUDA graph, and replay it; see
            `sslkit.networks.cuda_graph`.
    """

    compile: bool = False
    checkpoint_activations: bool = False
    cuda_graph: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When checkpoints are written, and which ones stay.

    Attributes:
        save_every: Optimizer steps between checkpoints; None saves once an epoch.
        keep: Newest checkpoints that stay.
        keep_every: Every so many checkpoints, one stays for good.
    """

    save_every: int | None = None
    keep: int = 2
    keep_every: int | None = None


@dataclass(frozen=True, kw_only=True)
class MonitorOptions:
    """What is recorded, and what a run does about trouble.

    Attributes:
        log_every: Optimizer steps between records of the metrics.
        monitor_every: Optimizer steps between feature ranks and conflict maps; 0 switches them off.
        on_collapse: Warn when the features collapse, or stop the run.
        on_divergence: Stop when a loss or gradient is not finite, or return to the newest checkpoint and
            skip the batch.
        max_rollbacks: Batches that may be skipped in this way.
        on_changed_images: Stop when the source's images differ from those that the run began with, or continue.
    """

    log_every: int = 1
    monitor_every: int = 50
    on_collapse: Literal["warn", "stop"] = "warn"
    on_divergence: Literal["stop", "rollback"] = "stop"
    max_rollbacks: int = 3
    on_changed_images: Literal["stop", "continue"] = "stop"


@dataclass(frozen=True, kw_only=True)
class RunOptions(StepOptions, MonitorOptions, CheckpointOptions, LoaderOptions, DeviceOptions):
    """All options of a run.

    Attributes:
        stop_after: Stop, resumable, after this optimizer step.
    """

    stop_after: int | None = None
