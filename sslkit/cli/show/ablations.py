"""Show what an ablation would train, and what each arm costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sslkit.ablation.estimate import Estimate
from sslkit.ablation.plan import Ablation
from sslkit.cli.show.tables import make_table, print_parts


def describe_ablation(ablation: Ablation, estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Describe each arm, the cost of one of its runs, and the states of its runs."""
    full = estimates[0].flops
    return [
        {
            "arm": variant.arm.name,
            "objectives": list(variant.plan.recipe.objectives),
            "views": variant.plan.groups,
            "networks": [name for name in ("online", "target") if variant.plan.has(name)],
            "gflops_per_image": round(estimate.flops / 1e9, 3),
            "share_of_full": round(estimate.flops / full, 3),
            "images": estimate.images,
            "hours": estimate.hours,
            "memory": estimate.memory,
            "disk": estimate.disk,
            "runs": {str(run.seed): run.state for run in variant.runs},
        }
        for variant, estimate in zip(ablation.variants, estimates, strict=True)
    ]


def print_ablation(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per arm, then the total."""
    table = make_table(
        "Nothing was trained", "arm", "views", "networks", "GFLOPs/image", "of full", "hours", "memory", "disk", "runs"
    )
    for row in listed:
        views = ", ".join(f"{count} {group}" for group, count in row["views"].items())
        table.add_row(
            row["arm"], views, "+".join(row["networks"]), f"{row['gflops_per_image']:.3g}",
            f"{row['share_of_full']:.0%}", _hours(row["hours"]), _bytes(row["memory"]), _bytes(row["disk"]),
            _states(row["runs"].values()),
        )  # fmt: skip
    print_parts(table, *_total(listed))


def _total(listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sum up the runs that are not finished, and explain the columns."""
    unfinished = [(row, sum(state != "finished" for state in row["runs"].values())) for row in listed]
    runs = sum(count for _, count in unfinished)
    disk = _bytes(sum(row["disk"] * count for row, count in unfinished))
    if any(row["hours"] is None for row in listed):
        return [
            f"to train: {runs} runs, {disk} on disk",
            "per run; hours unknown: the [source] cannot be opened yet, so its images cannot be counted",
        ]
    hours = _hours(sum(row["hours"] * count for row, count in unfinished))
    return [
        f"to train: {runs} runs, about {hours} hours one after another, {disk} on disk",
        "per run; hours: the first arm's networks timed here, the others scaled by FLOPs, data loading not counted",
    ]


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.2g} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _states(states: Iterable[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(states).items())
