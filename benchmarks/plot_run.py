"""Draw the terms and monitors of a run: python benchmarks/plot_run.py RUN_FOLDER OUT.png [TITLE]."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, float]]
PANELS: Mapping[str, Sequence[str]] = {
    "terms of the loss": ("scene-scene.loss", "scene-instance.loss", "instance-instance.loss"),
    "standard deviation (1 spread, 0 collapsed)": ("feature_std", "prediction_std"),
    "transport plan": ("instance-instance.plan_entropy", "instance-instance.diagonal_mass"),
    "largest marginal error of the plan": ("instance-instance.marginal_error",),
    "gradient norm": ("grad_norm",),
    "learning rate": ("lr",),
    "1 - target momentum": ("target_momentum",),
    "sampler, mean of the epoch so far": ("sampler.fallback", "sampler.filled", "sampler.relaxed"),
}
LOGARITHMIC = ("largest marginal error of the plan", "gradient norm")
SMOOTH = 11
"""Steps of the running median."""


def main(folder: Path, out: Path, title: str = "") -> None:
    """Write the figure."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(4, 2, figsize=(12, 13), layout="constrained")
    figure.suptitle(title or str(folder))
    for place, (name, keys) in zip(axes.flat, PANELS.items(), strict=True):
        _panel(place, rows, name, keys)
    figure.savefig(out, dpi=80)


def _panel(place: Axes, rows: Rows, name: str, keys: Sequence[str]) -> None:
    place.set_title(name)
    place.set_xlabel("optimizer step")
    place.grid(alpha=0.3)
    if name in LOGARITHMIC:
        place.set_yscale("log")
    for key in keys:
        pairs = np.array([(row["step"], row[key]) for row in rows if key in row], float)
        if len(pairs):
            values = 1 - pairs[:, 1] if name.startswith("1 - ") else pairs[:, 1]
            [line] = place.plot(pairs[:, 0], _median(values), label=key)
            place.plot(pairs[:, 0], values, color=line.get_color(), alpha=0.25, linewidth=0.8)
    if place.lines:
        place.legend()


def _median(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    around = np.pad(values, SMOOTH // 2, mode="reflect")
    smooth: npt.NDArray[np.float64] = np.median(np.lib.stride_tricks.sliding_window_view(around, SMOOTH), axis=-1)
    return smooth


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
