"""Every objective of the plugin and its reference, lightly called directly, for the other tests here.

A reference is built from a new objective and copies its random state (queues, prototypes) before anything runs. It is
a function of the objective's rows and of `epoch`, written as a user of lightly alone would write it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

import torch
import torch.nn.functional as F
from lightly import loss as lightly_loss
from lightly.loss.hypersphere_loss import HypersphereLoss
from lightly.models.modules import SwaVPrototypes
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from lightly.models.utils import select_most_similar
from torch import Tensor

import sslkit_lightly
from sslkit.api import Terms
from sslkit.testing import fake_dims, fake_rows

Reference = Callable[..., Tensor]
OBJECTIVES = {cls.name: cls for cls in sslkit_lightly.sslkit_objectives()}


@dataclass(frozen=True)
class Direct:
    """An objective with options and sizes, and a function that builds its reference."""

    name: str
    make: Callable[[Any], Reference]
    options: Mapping[str, Any] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    local: bool = True

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in {**self.options, **self.dims}.items())])

    @property
    def cls(self) -> Any:
        return OBJECTIVES[self.name]

    @property
    def schema(self) -> Any:
        """Return what declares the rows: the class, or the class without its optional rows."""
        return self.cls if self.local else type("Required", (), {"requires": self.cls.requires, "optional": {}})

    def objective(self, seed: int = 0) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.cls(fake_dims(self.schema, self.dims), **self.options)

    def rows(self, seed: int, batch: int = 8, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        return {**dict.fromkeys(self.cls.optional), **fake_rows(self.schema, self.dims, batch, dtype, seed)}


def loss_of(module: Any, rows: Mapping[str, Any]) -> Tensor:
    """Sum the terms as the core does."""
    outcome = module(**rows)
    return torch.stack(list(outcome.terms.values())).sum() if isinstance(outcome, Terms) else outcome


DIRECT: list[Direct] = []


def direct(name: str, dims: Mapping[str, int] | None = None, local: bool = True, **options: Any) -> Any:
    def register(make: Callable[[Any], Reference]) -> Callable[[Any], Reference]:
        DIRECT.append(Direct(name, make, options, dims or {}, local))
        return make

    return register


def mean(losses: Any) -> Tensor:
    return torch.stack(list(losses)).mean()


def pairs(loss: Any) -> Reference:
    return lambda z, epoch: mean(loss(z[:, i], z[:, j]) for i, j in combinations(range(z.shape[1]), 2))


def copy_bank(bank: Any, ours: Any) -> Any:
    bank.bank, bank.bank_ptr = ours.bank.clone(), ours.bank_ptr.clone()
    return bank


# --------------------------------------------------------------------------------- pairs of views, as in lightly's examples


@direct("byol")
def byol(_: Any) -> Reference:
    loss = lightly_loss.NegativeCosineSimilarity()
    return lambda p, z, epoch: 0.5 * (loss(p[:, 0], z[:, 1]) + loss(p[:, 1], z[:, 0]))


@direct("byol", {"v": 3})
def byol_of_three(_: Any) -> Reference:
    loss = lightly_loss.NegativeCosineSimilarity()
    return lambda p, z, epoch: mean(loss(p[:, i], z[:, j]) for i, j in permutations(range(3), 2))


@direct("simsiam")
def simsiam(_: Any) -> Reference:
    loss = lightly_loss.NegativeCosineSimilarity()
    return lambda p, z, epoch: 0.5 * (loss(p[:, 0], z[:, 1].detach()) + loss(p[:, 1], z[:, 0].detach()))


@direct("tico", beta=0.8, rho=4.0)
def tico(_: Any) -> Reference:
    loss = lightly_loss.TiCoLoss(beta=0.8, rho=4.0)
    return lambda p, z, epoch: loss(p[:, 0], z[:, 1])


@direct("tico", symmetric=True)
def symmetric_tico(_: Any) -> Reference:
    loss = lightly_loss.TiCoLoss()
    return lambda p, z, epoch: 0.5 * (loss(p[:, 0], z[:, 1]) + loss(p[:, 1], z[:, 0]))


@direct("simclr", temperature=0.2)
def simclr(_: Any) -> Reference:
    return pairs(lightly_loss.NTXentLoss(temperature=0.2))


@direct("simclr", {"v": 4})
def simclr_of_four(_: Any) -> Reference:
    return pairs(lightly_loss.NTXentLoss())


@direct("directclr", size=4, temperature=0.3)
def directclr(_: Any) -> Reference:
    return pairs(lightly_loss.DirectCLRLoss(loss_dim=4, temperature=0.3))


@direct("dcl")
def dcl(_: Any) -> Reference:
    return pairs(lightly_loss.DCLLoss())


@direct("dclw", sigma=0.7)
def dclw(_: Any) -> Reference:
    loss = lightly_loss.DCLWLoss(sigma=0.7)

    def reference(z: Tensor, epoch: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "To copy construct from a tensor")
            value: Tensor = loss(z[:, 0], z[:, 1])
        return value

    return reference


@direct("macl", alpha=0.3, alignment=0.2)
def macl(_: Any) -> Reference:
    return pairs(lightly_loss.MACLLoss(alpha=0.3, A_0=0.2))


@direct("hypersphere", t=2.0, uniformity=0.5)
def hypersphere(_: Any) -> Reference:
    return pairs(HypersphereLoss(t=2.0, lam=0.5))


@direct("barlow-twins")
def barlow_twins(_: Any) -> Reference:
    return pairs(lightly_loss.BarlowTwinsLoss())


@direct("barlow-twins", {"v": 3}, off_diagonal=0.01)
def barlow_twins_of_three(_: Any) -> Reference:
    return pairs(lightly_loss.BarlowTwinsLoss(0.01))


@direct("vicreg", invariance=10.0, variance=20.0, covariance=2.0)
def vicreg(_: Any) -> Reference:
    return pairs(lightly_loss.VICRegLoss(10.0, 20.0, 2.0))


# -------------------------------------------------------------------------------------------------------- queues


@direct("moco", queue=10)
def moco(objective: Any) -> Reference:
    loss = lightly_loss.NTXentLoss(0.2, memory_bank_size=(10, 8))
    copy_bank(loss.memory_bank, objective.loss.memory_bank)
    return lambda q, k, epoch: loss(q[:, 0], k[:, 1])


@direct("moco", {"v": 3}, queue=50, symmetric=True)
def symmetric_moco(objective: Any) -> Reference:
    loss = lightly_loss.NTXentLoss(0.2, memory_bank_size=(50, 8))
    copy_bank(loss.memory_bank, objective.loss.memory_bank)
    order = list(permutations(range(3), 2))
    return lambda q, k, epoch: loss(torch.cat([q[:, i] for i, _ in order]), torch.cat([k[:, j] for _, j in order]))


@direct("moco-v3")
def moco_v3(_: Any) -> Reference:
    """Implement the paper's algorithm 1: lightly has no such loss."""

    def ctr(q: Tensor, k: Tensor) -> Tensor:
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        return -2 * 0.2 * (q @ k.T / 0.2).log_softmax(1).diagonal().mean()

    return lambda q, k, epoch: ctr(q[:, 0], k[:, 1]) + ctr(q[:, 1], k[:, 0])


@direct("nnclr", queue=10)
def nnclr(objective: Any) -> Reference:
    loss = lightly_loss.NTXentLoss(0.1)
    neighbours = copy_bank(NNMemoryBankModule((10, 8)), objective.neighbours)

    def reference(p: Tensor, z: Tensor, epoch: int) -> Tensor:
        z0, z1 = neighbours(z[:, 0].detach(), update=False), neighbours(z[:, 1].detach(), update=True)
        return 0.5 * (loss(z0, p[:, 1]) + loss(z1, p[:, 0]))

    return reference


@direct("densecl", queue=100)
def densecl(objective: Any) -> Reference:
    loss = lightly_loss.NTXentLoss(0.2, memory_bank_size=(100, 8))
    copy_bank(loss.memory_bank, objective.loss.memory_bank)

    def reference(q: Tensor, k: Tensor, q_map: Tensor, k_map: Tensor, epoch: int) -> Tensor:
        q, k, q_map, k_map = (x.flatten(3).permute(0, 1, 3, 2) for x in (q, k, q_map, k_map))
        key = select_most_similar(q_map[:, 0], k_map[:, 1], k[:, 1])
        return loss(q[:, 0].flatten(end_dim=1), key.flatten(end_dim=1))

    return reference


# ------------------------------------------------------------------------------------------------- all views at once


@direct("w-mse", {"d": 2, "v": 3}, size=4, iterations=2)
def w_mse(objective: Any) -> Reference:
    loss = lightly_loss.WMSELoss(2, w_size=4, w_iter=2, num_samples=3)
    return lambda z, epoch: seeded(objective, lambda: loss(torch.cat(list(z.unbind(1)))))


def seeded(objective: Any, draw: Callable[[], Tensor]) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(objective.seed))
        return draw()


@direct("frossl", {"v": 3}, invariance=1.4)
def frossl(_: Any) -> Reference:
    loss = lightly_loss.FroSSLLoss(1.4)
    return lambda z, epoch: loss(list(z.unbind(1)))


@direct("emp-ssl", {"v": 4})
def emp_ssl(_: Any) -> Reference:
    """Combine lightly's two parts with the paper's signs."""
    from lightly.loss.emp_ssl_loss import invariance_loss, tcr_loss

    def reference(z: Tensor, epoch: int) -> Tensor:
        z = F.normalize(z, dim=-1).transpose(0, 1)
        return 200.0 * invariance_loss(z) - tcr_loss(z, 0.2)

    return reference


@direct("mmcr", normalise=False)
def mmcr(_: Any) -> Reference:
    loss = lightly_loss.MMCRLoss()
    return lambda z, t, epoch: loss(z, t)


@direct("mmcr", {"v": 3}, compression=0.1)
def mmcr_on_the_sphere(_: Any) -> Reference:
    loss = lightly_loss.MMCRLoss(0.1)
    return lambda z, t, epoch: loss(F.normalize(z, dim=-1), F.normalize(t, dim=-1))


@direct("koleo")
def koleo(_: Any) -> Reference:
    loss = lightly_loss.KoLeoLoss()
    return lambda x, epoch: 0.5 * (loss(x[:, 0]) + loss(x[:, 1]))


@direct("sigreg", directions=16)
def sigreg(objective: Any) -> Reference:
    loss = lightly_loss.SIGReg(num_vectors=16)
    return lambda z, epoch: seeded(objective, lambda: loss(z.transpose(0, 1)))


@direct("lejepa", {"m": 3}, directions=16, gaussian=0.1)
def lejepa(objective: Any) -> Reference:
    loss = lightly_loss.LeJEPALoss(0.1, sigreg_num_vectors=16)
    return lambda z, local, epoch: seeded(
        objective, lambda: loss(global_proj=z.transpose(0, 1), local_proj=local.transpose(0, 1))
    )


@direct("lejepa", {"v": 3}, local=False, directions=16)
def lejepa_without_local_views(objective: Any) -> Reference:
    loss = lightly_loss.LeJEPALoss(sigreg_num_vectors=16)

    def reference(z: Tensor, local: None, epoch: int) -> Tensor:
        distance = (z - z.mean(1, keepdim=True)).square().mean()
        return 0.05 * seeded(objective, lambda: loss.sigreg(z.transpose(0, 1))) + 0.95 * distance

    return reference


@direct("visreg", {"m": 3}, directions=16, scale=0.5)
def visreg(objective: Any) -> Reference:
    loss = lightly_loss.VISRegLoss(num_slices=16, lambda_scale=0.5)
    return lambda z, local, epoch: seeded(
        objective, lambda: loss(global_proj=z.transpose(0, 1), local_proj=local.transpose(0, 1))
    )


# ------------------------------------------------------------------------------------------------------- prototypes


@direct("dino", {"m": 3}, warmup_epochs=4)
def dino(_: Any) -> Reference:
    loss = lightly_loss.DINOLoss(8, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=4)
    return lambda z, t, local, epoch: loss([*t.unbind(1)], [*z.unbind(1), *local.unbind(1)], epoch=epoch)


@direct("dino", local=False, warmup_epochs=0)
def dino_without_local_views(_: Any) -> Reference:
    loss = lightly_loss.DINOLoss(8, teacher_temp=0.07)
    return lambda z, t, local, epoch: loss([*t.unbind(1)], [*z.unbind(1)])


@direct("swav", {"m": 3}, prototypes=5, freeze_epochs=0.0)
def swav(objective: Any) -> Reference:
    return swav_with_lightly(objective, None, 0)


@direct("swav", {"m": 3}, prototypes=5, freeze_epochs=1.0, queue=10, queue_epoch=1.0)
def swav_with_a_queue(objective: Any) -> Reference:
    return swav_with_lightly(objective, [copy_bank(MemoryBankModule((10, 8)), ours) for ours in objective.queues], 1)


def swav_with_lightly(objective: Any, queues: Any, start: int) -> Reference:
    loss = lightly_loss.SwaVLoss()
    prototypes = SwaVPrototypes(8, n_prototypes=5)
    prototypes.heads[0].weight = objective.prototypes.weight
    prototypes.heads[0].bias.data.zero_()

    def reference(z: Tensor, local: Tensor, epoch: int) -> Tensor:
        high, low = ([F.normalize(view, dim=1) for view in row.unbind(1)] for row in (z, local))
        before = [queue(view, update=True)[1].T for queue, view in zip(queues, high, strict=True)] if queues else []
        queued = [prototypes(bank) for bank in before] if queues and epoch >= start else None
        return loss([prototypes(x) for x in high], [prototypes(x) for x in low], queued)[0]

    return reference


@direct("msn", {"m": 3}, prototypes=5)
def msn(objective: Any) -> Reference:
    loss = lightly_loss.MSNLoss()
    return lambda z, t, local, epoch: loss(
        torch.cat([z[:, 1], *local.unbind(1)]), t[:, 0], objective.prototypes.weight, 0.25
    )


@direct("msn", local=False, prototypes=5, symmetric=True, sharpening=0.5)
def symmetric_msn(objective: Any) -> Reference:
    loss = lightly_loss.MSNLoss()
    return lambda z, t, local, epoch: (
        0.5
        * (
            loss(z[:, 1], t[:, 0], objective.prototypes.weight, 0.5)
            + loss(z[:, 0], t[:, 1], objective.prototypes.weight, 0.5)
        )
    )


@direct("pmsn", {"m": 3}, prototypes=5, exponent=0.4)
def pmsn(objective: Any) -> Reference:
    loss = lightly_loss.PMSNLoss(power_law_exponent=0.4)

    def reference(z: Tensor, t: Tensor, local: Tensor, epoch: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "To copy construct from a tensor")
            anchors = torch.cat([z[:, 1], *local.unbind(1)])
            value: Tensor = loss(anchors, t[:, 0], objective.prototypes.weight, 0.25)
        return value

    return reference


# ------------------------------------------------------------------------------------------------------------- maps


@direct("vicregl", matches=(4, 2))
def vicregl(_: Any) -> Reference:
    loss = lightly_loss.VICRegLLoss(alpha=0.0, num_matches=(4, 2))

    def reference(z: Tensor, boxes: Tensor, flipped: Tensor, epoch: int) -> Tensor:
        maps = [view.permute(0, 2, 3, 1) for view in z.unbind(1)]
        grids = [cells(boxes[:, i], flipped[:, i], z.shape[-2:]) for i in range(2)]
        return loss([(view.mean((1, 2)), view) for view in maps], grids)[0]

    return reference


def cells(boxes: Tensor, flipped: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the centre of each cell, computed one by one."""
    h, w = shape
    grid = torch.empty(len(boxes), h, w, 2, dtype=boxes.dtype)
    for b, (left, top, right, bottom) in enumerate(boxes):
        for row in range(h):
            for column in range(w):
                seen = w - 1 - column if flipped[b] else column
                x, y = left + (seen + 0.5) / w * (right - left), top + (row + 0.5) / h * (bottom - top)
                grid[b, row, column] = torch.stack([x, y])
    return grid
