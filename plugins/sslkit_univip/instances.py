"""UniVIP's instance-to-instance objective: match instances by optimal transport."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sslkit.api import Dims, Objective, Terms
from sslkit.nn import cosine_similarity, unit, widen
from sslkit_univip import pot_solvers, solver_options
from sslkit_univip.scenes import PairLoss, pair_loss
from sslkit_univip.solver_options import Solver
from sslkit_univip.transport import Side, check_options, entropy, marginal_error, sinkhorn


class Transport(NamedTuple):
    """A transport problem and its solution, without gradients.

    Attributes:
        plan: Shape (b k k): y*, online instances in rows, target instances in columns.
        b: Shape (b k), masses that online instances supply: the required row sums.
        a: Shape (b k), masses that target instances demand: the required column sums.
    """

    plan: Tensor
    b: Tensor
    a: Tensor


class InstanceInstance(Objective):
    """Match the instances of the two networks by optimal transport: UniVIP's instance-to-instance term.

    L_ii = -sum_mn y*_mn cos(o_m, t_n), averaged over the batch. y* is the entropic transport plan for the cost
    1 - cos(o_m, t_n), where online instance m supplies b_m = max(o_m . mean_v z_v, 0) and target instance n demands
    a_n = max(t_n . mean_v p_v, 0): instances that agree with the scene weigh more. Plan and masses carry no gradient.

    In the form that the paper prints, the two totals differ, and no plan can meet both. Here each side is scaled to sum
    1, with a floor, as in DeepEMD, the source of the masses. `normalise = false, floor = 0` is the printed form.

    Other solvers, by POT, replace the plan: `exact` has no entropy; `unbalanced` and `partial` do not require the two
    sides to be met, so they take the printed masses as they are. Only `sinkhorn` works under --cuda-graph.

    Monitors: `plan_entropy`, as a fraction of log(k k) (1 uniform, 0.5 one to one); `diagonal_mass`, the fraction of
    mass that matches an instance with itself; `marginal_error`, the fraction of mass in wrong rows or columns, which
    `unbalanced` and `partial` leave on purpose; `cross_cosine`, the mean cosine of different instances (1 when
    instances are indistinguishable; 0 when k = 1). Those two add `transported_mass`, the plan's total over the smaller
    total of the two sides.

    Args:
        pair_loss: `negative-cosine` (the paper's) or `squared-distance` (2 - 2 cos per unit of mass).
        epsilon: Weight of the plan's entropy, in units of cost (OTA's value; the paper states none).
        iterations: Sinkhorn updates of each side (OTA's value).
        tolerance: Stop the updates once each image of the batch has at most this `marginal_error`, both sides scaled to
            sum 1. Checked every 10 iterations, and each check makes the host wait for the GPU; not checked by default.
        marginals: `cross`, the masses above, or `uniform`.
        similarity: Product that defines the masses: `dot` (the paper's) or `cosine`, which ignores embedding norms.
        normalise: Scale each side's masses to sum 1.
        floor: Added to each mass before that, to keep masses positive (DeepEMD's value).
        last_update: The side that each iteration updates second, and that the plan meets exactly.
        solver: `sinkhorn` (ours), or by POT: `exact`, `unbalanced`, which charges for each deviation from the masses,
            or `partial`, which moves only a part of them. `iterations`, `tolerance` and `last_update` are for
            `sinkhorn`.
        entropic: Whether the plan of `unbalanced` (yes by default) or `partial` (no) has an entropy, of weight epsilon.
        marginal_penalty: Weight of the deviations of `unbalanced` (KL divergences), in units of cost; 1 by default.
        mass: Part of the smaller side's total that `partial` moves; 0.75 by default, three of four equal instances.
    """

    name: ClassVar[str] = "instance-instance"
    requires: ClassVar[dict[str, str]] = {
        "o": "online.prediction.instance: b k d",
        "t": "target.projection.instance: b k d",
        "p": "online.prediction.scene: b v d",
        "z": "target.projection.scene: b v d",
    }

    def __init__(
        self,
        dims: Dims,  # noqa: ARG002 - works with any sizes
        *,
        pair_loss: PairLoss = "negative-cosine",
        epsilon: Annotated[float, Field(gt=0)] = 0.1,
        iterations: Annotated[int, Field(ge=1, le=1_000_000)] = 50,
        tolerance: Annotated[float, Field(gt=0)] | None = None,
        marginals: Literal["cross", "uniform"] = "cross",
        similarity: Literal["dot", "cosine"] = "dot",
        normalise: bool = True,
        floor: Annotated[float, Field(ge=0)] = 1e-3,
        last_update: Side = "columns",
        solver: Solver = "sinkhorn",
        entropic: bool | None = None,
        marginal_penalty: Annotated[float, Field(gt=0)] | None = None,
        mass: Annotated[float, Field(gt=0, le=1)] | None = None,
    ) -> None:
        super().__init__()
        options = {"epsilon": epsilon, "iterations": iterations, "tolerance": tolerance, "last_update": last_update}
        options |= {"entropic": entropic, "marginal_penalty": marginal_penalty, "mass": mass}
        entropic = solver in ("sinkhorn", "unbalanced") if entropic is None else entropic
        solver_options.check(solver, entropic, normalise or marginals == "uniform", options)
        if solver == "sinkhorn":
            check_options(epsilon, iterations, last_update, tolerance)
        self.pair_loss = pair_loss
        self.epsilon = epsilon
        self.iterations = iterations
        self.tolerance = tolerance
        self.marginals = marginals
        self.similarity = similarity
        self.normalise = normalise
        self.floor = floor
        self.last_update = last_update
        self.solver = solver
        self.entropic = entropic
        self.marginal_penalty = 1.0 if marginal_penalty is None else marginal_penalty
        self.mass = 0.75 if mass is None else mass

    def forward(self, o: Tensor, t: Tensor, p: Tensor, z: Tensor) -> Terms:  # type: ignore[override]
        """Match online predictions `o` with target projections `t` of instances, both (b k d).

        Args:
            o: Online predictions of instances, (b k d).
            t: Target projections of instances, (b k d).
            p: Online predictions of scenes, (b v d).
            z: Target projections of scenes, (b v d).
        """
        cosines = cosine_similarity(o.unsqueeze(2), t.unsqueeze(1))
        with torch.no_grad():
            transport = self.transport(cosines, o, t, p, z)
        losses = (transport.plan * pair_loss(cosines, self.pair_loss)).sum((1, 2))
        values = monitors(cosines.detach(), transport)
        if self.solver in ("unbalanced", "partial"):
            values["transported_mass"] = transported_mass(transport).mean()
        return Terms({"loss": losses.mean()}, values)

    def transport(self, cosines: Tensor, o: Tensor, t: Tensor, p: Tensor, z: Tensor) -> Transport:
        """Compute the masses and solve for the plan; `cosines` is (b k k), the rest as in `forward`."""
        b, a = self.masses(o, z), self.masses(t, p)
        return Transport(self.plan(1 - cosines, b, a), b, a)

    def plan(self, cost: Tensor, b: Tensor, a: Tensor) -> Tensor:
        """Solve for the plan (b k k) of costs (b k k) in [0, 2] and the masses of rows and of columns, both (b k)."""
        epsilon = self.epsilon if self.entropic else None
        if self.solver == "exact":
            return pot_solvers.exact(cost, b, a)
        if self.solver == "unbalanced":
            return pot_solvers.unbalanced(cost, b, a, self.marginal_penalty, epsilon)
        if self.solver == "partial":
            return pot_solvers.partial(cost, b, a, self.mass, epsilon)
        options = {"cost_range": 2.0, "tolerance": self.tolerance}
        return sinkhorn(cost, b, a, self.epsilon, self.iterations, self.last_update, **options)

    def masses(self, instances: Tensor, scenes: Tensor) -> Tensor:
        """Return the masses (b k) of instances (b k d): their agreement with the other network's mean scene (b v d)."""
        if self.marginals == "uniform":
            return torch.full_like(widen(instances[..., 0]), 1 / instances.shape[1])
        instances, scene = widen(instances), widen(scenes).mean(1, keepdim=True)
        if self.similarity == "cosine":
            instances, scene = unit(instances), unit(scene)
        weights = (instances * scene).sum(-1).clamp_min(0) + self.floor
        return _normalise(weights) if self.normalise else weights


def _normalise(weights: Tensor) -> Tensor:
    """Scale weights (b k) to sum 1; uniform if all are zero."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / torch.where(total > 0, total, 1), 1 / weights.shape[-1])


def transported_mass(transport: Transport) -> Tensor:
    """Return the total of each plan over the smaller total of its two sides, shape (b); 0 where that is zero."""
    smaller = torch.minimum(transport.b.sum(-1), transport.a.sum(-1))
    return transport.plan.sum((1, 2)) / smaller.clamp_min(torch.finfo(smaller.dtype).tiny)


def monitors(cosines: Tensor, transport: Transport) -> dict[str, Tensor]:
    """Measure how sharp, how diagonal and how exact the plan is, averaged over the batch."""
    plan = transport.plan
    diagonal = plan.diagonal(dim1=1, dim2=2).sum(-1)
    mass = plan.sum((1, 2)).clamp_min(torch.finfo(plan.dtype).tiny)
    k = cosines.shape[1]
    across = cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(-1)
    return {
        "plan_entropy": entropy(plan).mean(),
        "diagonal_mass": (diagonal / mass).mean(),
        "marginal_error": marginal_error(plan, transport.b, transport.a).mean(),
        "cross_cosine": across.mean() / max(k * (k - 1), 1),
    }
