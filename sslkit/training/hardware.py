"""What a run is done with, and the processes that do it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from sslkit.errors import UsageError, closest
from sslkit.networks import sharding
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import Recipe
from sslkit.training import allocator
from sslkit.training.options import DeviceOptions
from sslkit.training.processes import check_launcher

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")
"""What `--strategy` takes: Lightning Fabric's names, and fsdp for `sslkit.networks.sharding`."""


def fabric_of(plan: Plan, options: DeviceOptions) -> Fabric:
    """Start the processes of a run, and return what joins them.

    Raises:
        UsageError: The batch does not divide over them, there is no such strategy, or Fabric cannot have what is asked.
    """
    from lightning_fabric import Fabric

    accelerator = "cpu" if options.accelerator == "auto" and not torch.cuda.is_available() else options.accelerator
    precision = precision_of(plan.recipe, accelerator)
    check_strategy(options.strategy, precision, accelerator)
    devices: int | str = int(options.devices) if options.devices.isdecimal() else options.devices
    if devices == "auto" and accelerator == "cpu":
        devices = 1
    strategy = sharding.strategy() if options.strategy == "fsdp" else options.strategy
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # who does not use it knows
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=options.nodes,
            strategy=strategy, precision=precision,
        )  # fmt: skip
    except Exception as error:  # of any kind: devices that are not there, a launcher that started another number
        asked = f"--accelerator {accelerator} --devices {devices} --nodes {options.nodes}"
        raise UsageError(f"{asked}: Lightning Fabric says: {' '.join(str(error).split())}") from error
    check_launcher(fabric)
    check_batch(plan.recipe.batch_size, plan.recipe.accumulate, fabric.world_size)
    fabric.launch()
    if fabric.device.type == "cpu":
        allocator.keep_freed()
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.all_gather")  # Fabric's business
    return fabric


def is_alone(fabric: Fabric) -> bool:
    """Say whether there is one process on one device, and nothing that joins it with others."""
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    return type(fabric.strategy) is SingleDeviceStrategy


def precision_of(recipe: Recipe, accelerator: str = "auto") -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Return what a recipe is computed in: of "auto", what it came to where the run began, and here where none has."""
    if recipe.precision != "auto":
        return recipe.precision
    return recipe.auto_precision or ("bf16-mixed" if fast_at_bf16(accelerator) else "32-true")


def settled(plan: Plan, accelerator: str, begun: Mapping[str, Any]) -> Plan:
    """Return a plan whose precision no longer depends on the machine.

    Args:
        plan: Its recipe may say "auto".
        accelerator: Of this machine.
        begun: The resolved recipe of the run that goes on; empty for a new one.
    """
    if plan.recipe.precision != "auto":
        return plan
    kept = begun.get("auto_precision") or precision_of(plan.recipe, accelerator)
    return replace(plan, recipe=plan.recipe.model_copy(update={"auto_precision": kept}))


def told_of_precision(recipe: Recipe, accelerator: str) -> str:
    """Say what a run is computed in, and where that is not what this machine would have chosen."""
    kept = precision_of(recipe, accelerator)
    if recipe.precision != "auto":
        return f"precision {kept}"
    here = "bf16-mixed" if fast_at_bf16(accelerator) else "32-true"
    began = "" if here == kept else f': the run began so; "auto" would be {here} on this machine'
    return f"precision {kept} (auto){began}"


def fast_at_bf16(accelerator: str = "auto") -> bool:
    """Say whether bfloat16 is faster here than float32: on GPUs from NVIDIA's Ampere on, on CPUs with its products."""
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)
    if accelerator not in ("auto", "cpu"):
        return False
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in asked if ask is not None)


def check_strategy(strategy: str, precision: str, accelerator: str) -> None:
    """Refuse strategies whose checkpoints would not be whole, and what one does not have."""
    if strategy not in STRATEGIES:
        raise UsageError(f"no strategy '{strategy}'{closest(strategy, STRATEGIES)} (known: {', '.join(STRATEGIES)})")
    if strategy == "fsdp" and precision not in sharding.PRECISIONS:
        raise UsageError(f'--strategy fsdp has no precision = "{precision}": write "bf16-mixed" or "32-true"')
    if strategy == "fsdp" and accelerator == "cpu" and not sharding.ON_CPU:
        raise UsageError(f"--strategy fsdp takes GPUs, or a newer torch: {torch.__version__} cannot shard on the CPU")


def check_batch(batch_size: int, accumulate: int, world: int) -> None:
    """Refuse batches that do not divide over passes and processes, or leave batch norm a single image."""
    images = batch_size / (accumulate * world)
    if images < 2 or images % 1:
        raise UsageError(
            f"batch_size = {batch_size} over {world} processes x {accumulate} passes gives {images:g} images a pass: "
            "it must be a whole number of 2 or more"
        )
