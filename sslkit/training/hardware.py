"""The devices of a run and the ranks on them, and the precision that they compute in."""

from __future__ import annotations

import atexit
import warnings
from typing import TYPE_CHECKING, Literal

import torch

from sslkit.errors import UsageError, closest
from sslkit.networks import sharding
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import Recipe
from sslkit.training import allocator
from sslkit.training.fabric_import import import_fabric
from sslkit.training.options import DeviceOptions
from sslkit.training.processes import check_launcher

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")
"""What `--strategy` takes: Lightning Fabric's names, and fsdp for `sslkit.networks.sharding`."""


def launch(plan: Plan, options: DeviceOptions) -> Fabric:
    """Start the ranks of a run, and return the Fabric that joins them.

    Raises:
        UsageError: The batch does not divide over the ranks, the strategy is unknown, the device does not compute in
            the precision, or Fabric refuses the devices.
    """
    import_fabric()
    from lightning_fabric import Fabric

    accelerator = "cpu" if options.accelerator == "auto" and not torch.cuda.is_available() else options.accelerator
    precision = precision_of(plan.recipe, accelerator)
    check_strategy(options.strategy, precision, accelerator)
    if precision == "16-mixed" and accelerator == "cpu":  # Fabric would compute in bfloat16
        what = 'precision = "16-mixed" needs a GPU, and this run is on the CPU'
        raise UsageError(f'{what}: write precision = "bf16-mixed", "32-true" or "auto"')
    devices: int | str = int(options.devices) if options.devices.isdecimal() else options.devices
    if devices == "auto" and accelerator == "cpu":
        devices = 1
    strategy = sharding.strategy() if options.strategy == "fsdp" else options.strategy
    warnings.filterwarnings(
        "ignore", message="The `srun` command is available"
    )  # true of every run that is not meant for SLURM
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=options.nodes,
            strategy=strategy, precision=precision,
        )  # fmt: skip
    except Exception as error:  # of any kind: missing devices, or a launcher that started another number of processes
        requested = f"--accelerator {accelerator} --devices {devices} --nodes {options.nodes}"
        raise UsageError(f"{requested}: Lightning Fabric says: {' '.join(str(error).split())}") from error
    check_launcher(fabric)
    check_batch(plan.recipe.batch_size, plan.recipe.accumulate, fabric.world_size)
    fabric.launch()
    if fabric.world_size > 1:
        atexit.register(_leave)
    if fabric.device.type == "cpu":
        allocator.keep_freed()
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.all_gather")  # Fabric's business
    return fabric


def _leave() -> None:
    """Leave the process group before Python ends; gloo's threads may otherwise abort a process that is finished."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_single_device(fabric: Fabric) -> bool:
    """Return whether the run has one rank on one device, without any wrapper that joins ranks."""
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    return type(fabric.strategy) is SingleDeviceStrategy


def precision_of(recipe: Recipe, accelerator: str = "auto") -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Return the precision of a recipe; "auto" is what its run chose (see `precision`), or else the rule."""
    if recipe.precision != "auto":
        return recipe.precision
    return recipe.auto_precision or ("bf16-mixed" if fast_at_bf16(accelerator) else "32-true")


def fast_at_bf16(accelerator: str = "auto") -> bool:
    """Return whether bfloat16 is faster here than float32: on GPUs since Ampere, and CPUs that multiply in it."""
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)
    if accelerator not in ("auto", "cpu"):
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(check()) for check in checks if check is not None)


def torch_device(accelerator: str) -> torch.device:
    """Return the device of an accelerator: "auto", "cpu", "cuda" or "mps".

    Raises:
        UsageError: The accelerator is unknown, or this machine does not have it.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    names = {"auto": auto, "gpu": "cuda", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}
    if accelerator not in names:
        raise UsageError(f"--accelerator {accelerator}: write auto, cpu, cuda or mps{closest(accelerator, names)}")
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable[names[accelerator]]:
        raise UsageError(f"--accelerator {accelerator}: torch finds no such device on this machine: write auto or cpu")
    return torch.device(names[accelerator])


def check_strategy(strategy: str, precision: str, accelerator: str) -> None:
    """Refuse unknown strategies, and precisions and devices that a strategy does not support.

    Raises:
        UsageError: Something is unknown or not supported; the message says what to write.
    """
    if strategy not in STRATEGIES:
        raise UsageError(
            f"unknown strategy '{strategy}'{closest(strategy, STRATEGIES)} (known: {', '.join(STRATEGIES)})"
        )
    if strategy == "fsdp" and precision not in sharding.PRECISIONS:
        raise UsageError(f'--strategy fsdp does not support precision = "{precision}": write "bf16-mixed" or "32-true"')
    if strategy == "fsdp" and accelerator == "cpu" and not sharding.ON_CPU:
        raise UsageError(f"--strategy fsdp needs GPUs, or a newer torch: {torch.__version__} cannot shard on the CPU")


def check_batch(batch_size: int, accumulate: int, world: int) -> None:
    """Refuse batches that do not divide over ranks and micro-batches, or leave batch norm a single image.

    Raises:
        UsageError: The batch does not divide; the message gives the number of images per micro-batch.
    """
    images = batch_size / (accumulate * world)
    if images < 2 or images % 1:
        raise UsageError(
            f"batch_size = {batch_size} over {world} ranks x {accumulate} micro-batches gives {images:g} images per "
            "micro-batch: it must be a whole number of 2 or more"
        )
