"""Shard networks too large for one device: parameters, gradients and optimizer state split over all ranks (FSDP2).

Every block of a backbone (a ViT's, a ResNet's) is gathered just before it is used and released after it; parameters
outside blocks, such as those of heads, are gathered together. Checkpoints hold whole tensors, the same as those of one
device, so that a run can resume on any number of ranks. Functions that gather must be called on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")
"""Precisions that work with shards; `16-mixed` would need a loss scale that knows about them."""

ON_CPU = hasattr(torch.cpu.Stream, "record_event")
"""Whether this torch can shard on the CPU; 2.6 cannot."""


def strategy() -> ModelParallelStrategy:
    """Return Lightning Fabric's strategy for `--strategy fsdp`."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(shard)


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a module's parameters over all ranks, block by block, in place.

    Args:
        module: The module, the same on every rank.
        mesh: A device mesh over all ranks, machines first.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    flat = init_device_mesh(mesh.device_type, (mesh.size(),), mesh_dim_names=("shards",))
    module.to(memory_format=torch.contiguous_format)  # other layouts cannot be sharded
    for block in blocks(module):
        fully_shard(block, mesh=flat)
    fully_shard(module, mesh=flat)
    return module


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost repeated blocks of a module: two or more modules of one class in one list."""
    for child in module.children():
        inner = list(child.children())
        same_class = len(inner) > 1 and len({type(part) for part in inner}) == 1
        is_list = isinstance(child, (nn.Sequential, nn.ModuleList))
        if same_class and is_list and next(inner[0].parameters(), None) is not None:
            yield from inner
        else:
            yield from blocks(child)


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module has sharded parameters."""
    return any(is_sharded_tensor(parameter) for parameter in module.parameters())


def is_sharded_tensor(value: object) -> TypeGuard[DTensor]:
    """Return whether a value is a DTensor, each rank holding a shard; decided without importing DTensor."""
    return hasattr(value, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, or the tensor itself if it is not sharded."""
    return tensor.to_local() if is_sharded_tensor(tensor) else tensor


def gather_to_cpu(value: Any, keep: bool = True) -> Any:
    """Gather every sharded tensor of a nested value onto the CPU; leave other values unchanged.

    Args:
        value: Mappings, lists and tuples of tensors and other values.
        keep: Whether this rank needs the tensors; if not, it still takes part, and gets empty ones.
    """
    if is_sharded_tensor(value):
        gathered = value.full_tensor().detach()
        return gathered.cpu() if keep else gathered.new_empty(0)
    if isinstance(value, Mapping):
        return {name: gather_to_cpu(item, keep) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(gather_to_cpu(item, keep) for item in value)
    return value


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Shard a full tensor like `like`; if that is not sharded, use its memory layout.

    Fused optimizers read memory in order, so layouts must agree.
    """
    if value.shape != like.shape:
        return value
    if not is_sharded_tensor(like):
        same = value.stride() == like.stride()
        return value if same else torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def shard_model_state(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Shard a full state dict like that of the module; return it unchanged if the module is not sharded."""
    if not is_sharded(module):
        return state
    current = module.state_dict()
    return {name: shard_like(value, current[name]) if name in current else value for name, value in state.items()}


def shard_optimizer_state(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Shard an optimizer's full state like its parameters, in their order."""
    sharded = {
        number: {
            name: shard_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in of_parameter.items()
        }
        for number, of_parameter in state["state"].items()
    }
    return {**state, "state": sharded}


def broadcast_buffers(module: nn.Module) -> None:
    """Copy rank 0's buffers, such as the statistics of batch norm, to every rank; DDP does the same."""
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, 0)


def describe(module: nn.Module) -> str:
    """Describe how many of a module's parameters this rank holds."""
    parameters = list(module.parameters())
    local_count, total = (sum(tensor.numel() for tensor in tensors) for tensors in (map(local, parameters), parameters))
    return f"sharded: {local_count:,} of {total:,} parameters on each rank, with their gradients and optimizer state"
