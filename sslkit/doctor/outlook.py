"""How long a whole recipe and each arm of its ablation would take, from the steps that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sslkit.ablation import trials
from sslkit.ablation.arms import Asked, arms
from sslkit.ablation.estimate import of_one
from sslkit.doctor.advice import Measurements
from sslkit.errors import SslkitError
from sslkit.networks.cost import Cost, measure
from sslkit.planning.plan import Plan
from sslkit.planning.recipe import RecipeFile
from sslkit.plugins import Plugins


@dataclass(frozen=True)
class ArmOutlook:
    """One run of an arm.

    Attributes:
        cost: Of an image.
        photo: Seconds of a photo on one core.
        images_per_s: By the full recipe's measured steps: the networks by their operations, the loader by its photo.
        images: Trained on in all.
        hours: Without probes and checkpoints.
        disk: Bytes of checkpoints and weights.
    """

    name: str
    cost: Cost
    photo: float
    images_per_s: float
    images: int
    hours: float
    disk: int


def outlook(
    text: RecipeFile, plan: Plan, plugins: Plugins, figures: Measurements, photo: Callable[[Plan], float], keep: int = 2
) -> tuple[list[ArmOutlook], str | None]:
    """Return what the full recipe and the recipe without each objective take, and why the latter cannot be told.

    Args:
        text: Of the recipe.
        plan: Made of it.
        plugins: That the arms' plans are made of.
        figures: Measured on the full recipe.
        photo: Measures the seconds of a photo on one core.
        keep: Checkpoints kept.
    """
    plans, why = {"full": plan}, None
    try:
        plans |= _without_each(text, plan, plugins)
    except SslkitError as error:
        why = str(error)
    costs = {name: measure(one) for name, one in plans.items()}
    photos: list[tuple[object, float]] = [(plan.views, figures.photo)]
    made = []
    for name, one in plans.items():
        known = [seconds for views, seconds in photos if views == one.views]
        if not known:
            known = [photo(one)]
            photos.append((one.views, known[0]))
        share = costs[name].flops / costs["full"].flops
        rate = figures.now * modelled(figures, 1.0, figures.photo) / modelled(figures, share, known[0])
        found = of_one(one, costs[name], 1 / rate, keep)
        assert found.images is not None
        assert found.hours is not None
        made.append(ArmOutlook(name, costs[name], known[0], rate, found.images, found.hours, found.disk))
    return made, why


def _without_each(text: RecipeFile, plan: Plan, plugins: Plugins) -> dict[str, Plan]:
    """Return the plans of the arms that `sslkit ablate --drop-each` has."""
    if len(plan.recipe.objectives) == 1:
        return {}
    asked = arms(text, plan, plugins, Asked(drop_each=True))
    nowhere = Path("/nonexistent/runs")  # what was trained before is of no interest
    made = trials.make(text, asked, plan.recipe.seed, 1, nowhere, plugins)
    return {variant.arm.name: variant.plan for variant in made.variants}


def modelled(figures: Measurements, share: float, photo: float) -> float:
    """Return the seconds of a step whose networks take `share` of the operations, and its photos `photo` seconds."""
    busy = figures.busy * share
    loading = figures.batch_size / figures.loader * photo / figures.photo
    return max(busy, loading) if figures.workers else busy + figures.waiting * photo / figures.photo


def total(made: Sequence[ArmOutlook], seeds: int) -> tuple[float, int]:
    """Return the hours and bytes of all arms at some seeds, one after another."""
    every = list(chain.from_iterable([made] * seeds))
    return sum(arm.hours for arm in every), sum(arm.disk for arm in every)
