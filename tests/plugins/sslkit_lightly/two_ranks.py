"""Run every objective on two ranks with half a batch each, and on one with the whole batch; print the differences.

Each row of an objective is its part of the batch times a learned matrix, so that gradients go through DDP as they do
in a run, and rows are gathered by the trainer's own function.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import torch
from direct import DIRECT, loss_of
from lightning_fabric import Fabric
from torch import Tensor, nn

from sslkit.training import agreement

BATCH = 8
STEPS = 2
UNUSED = {"simsiam", "nnclr", "densecl"}
"""Objectives that read an online row without its gradient. In a run the gradient of another row reaches its weights."""


class Rows(nn.Module):
    """One matrix for each row of a batch, and the objective on the products."""

    def __init__(self, objective: Any, rows: dict[str, Any]) -> None:
        super().__init__()
        self.objective = objective
        online = {name: row for name, row in rows.items() if row is not None and row.requires_grad}
        self.mixing = nn.ParameterDict({name: torch.eye(row.shape[2], dtype=row.dtype) for name, row in online.items()})
        self.gather: Any = None

    def forward(self, rows: dict[str, Any]) -> Tensor:
        mixed = {name: self._mix(name, row) for name, row in rows.items()}
        if self.gather and self.objective.couples_batch:
            mixed = {name: None if row is None else self.gather(row) for name, row in mixed.items()}
        return loss_of(self.objective, mixed)

    def _mix(self, name: str, row: Any) -> Any:
        return torch.einsum("bvd...,de->bve...", row, self.mixing[name]) if name in self.mixing else row


def gradients(module: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    return max([0.0, *((x.double() - y.double()).abs().max().item() for x, y in zip(a, b, strict=True) if x.numel())])


def compare(case: Any, fabric: Fabric) -> dict[str, float]:
    """Take the same steps with and without the other rank."""
    one = Rows(case.objective().double(), case.rows(0, BATCH, torch.float64))
    two = copy.deepcopy(one)
    half = slice(fabric.global_rank * BATCH // 2, (fabric.global_rank + 1) * BATCH // 2)
    ddp = torch.nn.parallel.DistributedDataParallel(two, find_unused_parameters=case.name in UNUSED)
    two.gather = lambda rows: agreement.gather(fabric, rows)
    differences = {"loss": 0.0, "gradient": 0.0, "state": 0.0, "size": 0.0}
    for step in range(STEPS):
        drawn = case.rows(step, BATCH, torch.float64)
        rows = {name: None if row is None else row.detach() for name, row in drawn.items()}
        whole, part = one(rows), ddp({name: None if row is None else row[half] for name, row in rows.items()})
        whole.backward()
        part.backward()
        mean: Any = fabric.all_reduce(part.detach(), reduce_op="mean")
        differences["loss"] = max(differences["loss"], largest_difference([whole.detach()], [mean]))
        differences["gradient"] = max(differences["gradient"], largest_difference(gradients(one), gradients(two)))
        differences["size"] = max(differences["size"], *(gradient.abs().max().item() for gradient in gradients(one)))
        for module in (one, two):
            module.zero_grad()
            module.objective.after_step(step + 1, (step + 1) / 2)
        differences["state"] = max(
            differences["state"], largest_difference(list(one.state_dict().values()), list(two.state_dict().values()))
        )
    return differences


def main() -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.set_num_threads(1)
    differences: dict[str, dict[str, float]] = {}
    for case in DIRECT:
        local = compare(case, fabric)
        joined: list[Any] = [None, None]
        torch.distributed.all_gather_object(joined, local)
        differences[f"{case.name}/{len(differences)}"] = {key: max(each[key] for each in joined) for key in local}
    if fabric.is_global_zero:
        sys.stdout.write(json.dumps(differences) + "\n")


if __name__ == "__main__":
    main()
