"""The curves of both sides, whether they agree, and their table and figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from learning.by_hand.settings import Settings
from scipy.stats import t

mpl.use("Agg")
from matplotlib import pyplot as plt

HAND, OURS = "by hand", "sslkit"
ARMS = (HAND, OURS)
METRICS = {"knn": "kNN", "linear": "linear"}
ONE_SEED = "With one seed there is no spread to compare the curves with."
Curves = Mapping[str, Mapping[int, Mapping[int, Mapping[str, float]]]]
"""Arm -> seed -> step -> metric -> share of correct answers."""


def values(curves: Curves, arm: str, metric: str) -> np.ndarray:
    """Return percentages, (seeds, points)."""
    return 100 * np.array([[point[metric] for point in seed.values()] for seed in curves[arm].values()])


def difference(ours: np.ndarray, by_hand: np.ndarray) -> tuple[float, float, float]:
    """Return ours minus by hand, from two seeds or more on each side, with its 95 % interval (Welch's t)."""
    value = float(ours.mean() - by_hand.mean())
    errors = [float(side.var(ddof=1)) / len(side) for side in (ours, by_hand)]
    if not sum(errors):
        return value, value, value
    parts = sum(error**2 / (len(side) - 1) for error, side in zip(errors, (ours, by_hand), strict=True))
    half = float(t.ppf(0.975, sum(errors) ** 2 / parts)) * sum(errors) ** 0.5
    return value, value - half, value + half


def compare(curves: Curves, points: Sequence[int]) -> dict[str, Any]:
    """Compare the curves of each metric: on average over the points after training began, and point by point."""
    trained = [place for place, step in enumerate(points) if step]
    result: dict[str, Any] = {}
    for metric in METRICS:
        ours, by_hand = (values(curves, arm, metric) for arm in (OURS, HAND))
        apart = [difference(ours[:, place], by_hand[:, place]) for place in trained]
        average = difference(ours[:, trained].mean(1), by_hand[:, trained].mean(1))
        result[metric] = {
            "difference": average, "agrees": average[1] <= 0 <= average[2],
            "points": dict(zip([points[place] for place in trained], apart, strict=True)),
            "points_apart": sum(not low <= 0 <= high for _, low, high in apart),
        }  # fmt: skip
    return result


def sentence(compared: Mapping[str, Any], seeds: int, points: int) -> str:
    """Say whether the curves agree."""
    parts = []
    for metric, item in compared.items():
        value, low, high = item["difference"]
        parts.append(f"{METRICS[metric]} {value:+.1f} [{low:+.1f}, {high:+.1f}]")
    agree = all(item["agrees"] for item in compared.values())
    apart = sum(item["points_apart"] for item in compared.values())
    verb = "agree within" if agree else "differ by more than"
    return (
        f"The curves {verb} the spread of {seeds} seeds: sslkit minus by hand, on average over the curve, in points "
        f"with 95 % intervals: {', '.join(parts)}. At {apart} of {points * len(compared)} single points "
        f"the interval excludes zero; {0.05 * points * len(compared):.1f} are expected by chance."
    )


def write(curves: Curves, settings: Settings, out: Path) -> str:
    """Write results.json, curves.csv and curves.png; return the sentence."""
    out.mkdir(parents=True, exist_ok=True)
    seeds = min(len(curves[arm]) for arm in ARMS)
    compared = compare(curves, settings.points) if seeds > 1 else {}
    words = sentence(compared, seeds, sum(step > 0 for step in settings.points)) if compared else ONE_SEED
    content = {"settings": asdict(settings), "curves": curves, "compared": compared, "sentence": words}
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _write_table(curves, settings, out / "curves.csv")
    _draw(curves, settings, out / "curves.png")
    return words


def _write_table(curves: Curves, settings: Settings, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "seed", "step", "images", *METRICS])
        for arm in ARMS:
            for seed, steps in curves[arm].items():
                for step, point in steps.items():
                    shares = [f"{point[metric]:.4f}" for metric in METRICS]
                    writer.writerow([arm, seed, step, step * settings.batch, *shares])


def _draw(curves: Curves, settings: Settings, path: Path) -> None:
    """Draw means with a band of one standard deviation, and the seeds as thin lines."""
    figure, axes = plt.subplots(1, len(METRICS), figsize=(10, 4), layout="constrained")
    images = np.array(settings.points) * settings.batch
    for place, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for arm, colour in zip(ARMS, ("tab:orange", "tab:blue"), strict=True):
            rows = values(curves, arm, metric)
            mean, spread = rows.mean(0), rows.std(0, ddof=1) if len(rows) > 1 else np.zeros(rows.shape[1])
            place.plot(images, mean, color=colour, marker="o", label=arm)
            place.fill_between(images, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
            place.plot(images, rows.T, color=colour, linewidth=0.5, alpha=0.6)
        place.set(title=f"{title} on object crops, loose boxes", xlabel="images seen", ylabel="top-1, %")
        place.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
