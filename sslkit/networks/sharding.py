"""Networks too large for one device: parameters, gradients and optimizer state cut over all processes (FSDP2).

Every block of a backbone (a ViT's, a ResNet's) is gathered just before it is used and let go behind it; what is in no
block, heads for one, is gathered together. Checkpoints hold whole tensors, the same as those of one device, so that a
run goes on over any number of processes. Everything here that gathers must be called in every process.
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
"""Those that it has; `16-mixed` would need a loss scale that knows of shards."""

ON_CPU = hasattr(torch.cpu.Stream, "record_event")
"""Whether this torch shards on the CPU; 2.6 does not."""


def strategy() -> ModelParallelStrategy:
    """Return the strategy of `--strategy fsdp` for Lightning Fabric."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(shard)


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Cut a module's parameters over all processes, block by block, in place.

    Args:
        module: The same in every process.
        mesh: Over all processes, machines first.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    flat = init_device_mesh(mesh.device_type, (mesh.size(),), mesh_dim_names=("shards",))
    module.to(memory_format=torch.contiguous_format)  # others cannot be cut
    for block in blocks(module):
        fully_shard(block, mesh=flat)
    fully_shard(module, mesh=flat)
    return module


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks that a module repeats: two or more of one class in one list, the outermost."""
    for child in module.children():
        inner = list(child.children())
        alike = len(inner) > 1 and len({type(part) for part in inner}) == 1
        listed = isinstance(child, (nn.Sequential, nn.ModuleList))
        if alike and listed and next(inner[0].parameters(), None) is not None:
            yield from inner
        else:
            yield from blocks(child)


def is_sharded(module: nn.Module) -> bool:
    """Say whether parameters of a module are cut over processes."""
    return any(is_cut(held) for held in module.parameters())


def is_cut(value: object) -> TypeGuard[DTensor]:
    """Say whether a value is a tensor of which every process holds a part: a DTensor, told without importing it."""
    return hasattr(value, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: all of it where it is not cut."""
    return tensor.to_local() if is_cut(tensor) else tensor


def whole(value: Any, keep: bool = True) -> Any:
    """Gather every tensor of a nested value that is cut, onto the CPU; all else is as it was.

    Args:
        value: Mappings, lists and tuples of tensors and others.
        keep: Whether this process wants them; those that do not take part, and get empty ones.
    """
    if is_cut(value):
        gathered = value.full_tensor().detach()
        return gathered.cpu() if keep else gathered.new_empty(0)
    if isinstance(value, Mapping):
        return {name: whole(item, keep) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item, keep) for item in value)
    return value


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """Cut a whole tensor as `like` is, where it is; else lay it out as that: fused optimizers read memory in order."""
    if value.shape != like.shape:
        return value
    if not is_cut(like):
        same = value.stride() == like.stride()
        return value if same else torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def cut_model(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Cut a whole state dict as the module's is, where it is."""
    if not is_sharded(module):
        return state
    held = module.state_dict()
    return {name: cut_like(value, held[name]) if name in held else value for name, value in state.items()}


def cut_optimizer(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Cut an optimizer's whole state as the parameters that it is of, in their order."""
    cut = {
        number: {
            name: cut_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in of_one.items()
        }
        for number, of_one in state["state"].items()
    }
    return {**state, "state": cut}


def align(module: nn.Module) -> None:
    """Give every process the first one's buffers, such as the statistics of batch norm; DDP does the same."""
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, 0)


def told(module: nn.Module) -> str:
    """Say how much of a module's parameters this process holds."""
    held = list(module.parameters())
    here, total = (sum(tensor.numel() for tensor in tensors) for tensors in (map(local, held), held))
    return f"sharded: {here:,} of {total:,} parameters in each process, with their gradients and optimizer state"
