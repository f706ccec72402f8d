"""Options of a run: how and where it is trained. None of them changes its numbers; those that do are in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from sslkit.errors import UsageError
from sslkit.foreign.signatures import schema
from sslkit.planning import toml
from sslkit.planning.options import validate

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Devices that a run is trained on.

    Attributes:
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: Devices per node; "auto" takes all GPUs, or one CPU process.
        nodes: Number of machines.
        strategy: "auto", "ddp" or "fsdp".
    """

    accelerator: str = "auto"
    devices: str = "auto"
    nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    strategy: str = "auto"


def default_workers(cores: int, threads: int) -> int:
    """Return how many loader processes a rank has by default: one less than its cores, at most 8.

    A single process gains nothing beside a step that computes on both of two cores: then it is 0.

    Args:
        cores: Cores that the rank may use.
        threads: Threads that its step computes with on these cores.
    """
    return 0 if cores == 2 and threads > 1 else min(cores - 1, 8)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How images are loaded.

    Attributes:
        workers: Loader processes per device; None chooses by the number of cores.
        cache_gb: Memory for decoded images, gigabytes per machine.
    """

    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    cache_gb: Annotated[float, Field(ge=0, le=100_000)] = 0.0


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
        keep: Number of newest checkpoints to keep.
        keep_every: Also keep every n-th checkpoint permanently.
    """

    save_every: Count | None = None
    keep: Count = 2
    keep_every: Count | None = None


@dataclass(frozen=True, kw_only=True)
class MonitorOptions:
    """What a run records, and how it reacts to trouble.

    Attributes:
        log_every: Optimizer steps between records of the metrics.
        monitor_every: Optimizer steps between feature ranks and conflict maps; 0 switches them off.
        probe_every: Optimizer steps between measurements of the probes that do not set `every` themselves; None
            measures them before and after training only.
        on_collapse: Warn when the features collapse, or stop the run.
        on_divergence: Stop when a loss or gradient is not finite, or return to the newest checkpoint and
            skip the batch.
        max_rollbacks: Batches that may be skipped in this way.
        on_changed_images: Stop when the source's images differ from those that the run began with, or continue.
    """

    log_every: Count = 1
    monitor_every: Annotated[int, Field(ge=0)] = 50
    probe_every: Count | None = None
    on_collapse: Literal["warn", "stop"] = "warn"
    on_divergence: Literal["stop", "rollback"] = "stop"
    max_rollbacks: Count = 3
    on_changed_images: Literal["stop", "continue"] = "stop"


@dataclass(frozen=True, kw_only=True)
class RunOptions(StepOptions, MonitorOptions, CheckpointOptions, LoaderOptions, DeviceOptions):
    """All options of a run.

    Attributes:
        stop_after: Stop after this optimizer step; the run can be resumed.
    """

    stop_after: Count | None = None


def check_options(values: Mapping[str, Any]) -> RunOptions:
    """Return the options of a run, with their types and ranges checked. None leaves an option at its default.

    Raises:
        UsageError: Options are unknown or have invalid values; the message lists them.
    """
    plain = toml.plain({name: value for name, value in values.items() if value is not None}, "options")
    if isinstance(plain.get("devices"), int):
        plain["devices"] = str(plain["devices"])
    checked, problems = validate(schema(RunOptions), plain, ())
    if problems:
        raise UsageError("\n".join(f"{item.what}{item.instead and '; '}{item.instead}" for item in problems))
    return RunOptions(**checked)
