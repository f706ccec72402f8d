"""Estimate how long the whole recipe and each arm of its ablation would take, from the measured steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sslkit.ablation.arm_planner import make_arms
from sslkit.ablation.estimate import estimate_run
from sslkit.ablation.plan import plan_ablation
from sslkit.ablation.requests import ArmRequests
from sslkit.doctor.advice import Measurements
from sslkit.errors import SslkitError
from sslkit.networks.cost import Cost, measure
from sslkit.planning.plan import Plan
from sslkit.planning.recipe_file import RecipeFile
from sslkit.plugins import Plugins


@dataclass(frozen=True)
class ArmOutlook:
    """The estimated cost of one run of an arm.

    Attributes:
        cost: Cost of one image.
        per_image: Seconds of one core to load an image.
        images_per_s: Images per second: the full recipe's steps, with the networks scaled by their operations and the
            loader by the time of an image.
        images: Images trained on in total, over all epochs.
        hours: Hours without probes and checkpoints.
        disk: Bytes of checkpoints and weights.
    """

    name: str
    cost: Cost
    per_image: float
    images_per_s: float
    images: int
    hours: float
    disk: int


def outlook(
    text: RecipeFile,
    plan: Plan,
    plugins: Plugins,
    measured: Measurements,
    time_image: Callable[[Plan], float],
    keep: int = 2,
) -> tuple[list[ArmOutlook], str | None]:
    """Estimate the full recipe and the recipe without each objective.

    Args:
        text: The recipe.
        plan: Its plan.
        plugins: Plugins to make the arms' plans from.
        measured: Measurements of the full recipe.
        time_image: Measures the seconds of one core to load an image.
        keep: Number of checkpoints to keep.

    Returns:
        The arms, the full recipe first, and why there are no others, or None.
    """
    plans, why = {"full": plan}, None
    try:
        plans |= _without_each(text, plan, plugins)
    except SslkitError as error:
        why = str(error)
    costs = {name: measure(arm_plan) for name, arm_plan in plans.items()}
    timings: list[tuple[object, float]] = [(plan.views, measured.per_image)]
    arms = []
    for name, arm_plan in plans.items():
        known = [seconds for views, seconds in timings if views == arm_plan.views]
        if not known:
            known = [time_image(arm_plan)]
            timings.append((arm_plan.views, known[0]))
        share = costs[name].flops / costs["full"].flops
        full_seconds = modelled_step_seconds(measured, 1.0, measured.per_image)
        rate = measured.rate * full_seconds / modelled_step_seconds(measured, share, known[0])
        estimate = estimate_run(arm_plan, costs[name], 1 / rate, keep)
        assert estimate.images is not None
        assert estimate.hours is not None
        arms.append(ArmOutlook(name, costs[name], known[0], rate, estimate.images, estimate.hours, estimate.disk))
    return arms, why


def _without_each(text: RecipeFile, plan: Plan, plugins: Plugins) -> dict[str, Plan]:
    """Return the plans of the arms of `sslkit ablate --drop-each`."""
    if len(plan.recipe.objectives) == 1:
        return {}
    arms = make_arms(text, plan, plugins, ArmRequests(drop_each=True))
    nowhere = Path("/nonexistent/runs")  # earlier runs do not matter here
    ablation = plan_ablation(text, arms, plan.recipe.seed, 1, nowhere, plugins)
    return {variant.arm.name: variant.plan for variant in ablation.variants}


def modelled_step_seconds(measured: Measurements, share: float, per_image: float) -> float:
    """Return the modelled seconds of a step with other networks and views.

    Args:
        measured: Measurements of the full recipe.
        share: Operations of the networks, relative to the full recipe.
        per_image: Seconds of one core to load an image.
    """
    busy = measured.busy * share
    loading = measured.batch_size / measured.loader_rate * per_image / measured.per_image
    return max(busy, loading) if measured.workers else busy + measured.waiting * per_image / measured.per_image


def total(arms: Sequence[ArmOutlook], seeds: int) -> tuple[float, int]:
    """Return the hours and bytes of all arms at all seeds, one run after another."""
    runs = list(chain.from_iterable([arms] * seeds))
    return sum(arm.hours for arm in runs), sum(arm.disk for arm in runs)
