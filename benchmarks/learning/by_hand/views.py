"""Are the views of both sides alike? Two-sample Kolmogorov-Smirnov tests of what can be measured on them.

cd benchmarks && python -m learning.by_hand.views --batches 120

Both sides draw views of the same scenes. Statistics of each view and of each pair are compared; of colour, only where
neither side drew greyscale. Views are independent within a batch if batches differ no more than chance has it: the
Kruskal-Wallis test over batches, of our views. views.csv is written to OUT.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from learning.arguments import count
from learning.by_hand import byol, ours, probes
from learning.by_hand.settings import Settings
from scipy.stats import kruskal, ks_2samp
from speed.plans import planned
from torch.utils.data import DataLoader

from sslkit.data.epochs import Epochs
from sslkit.data.views import ViewDataset, to_device
from sslkit_images.scenes.source import SampleScenes

HERE = Path(__file__).parent
GREY = 0.02
"""Largest range of the three channels in a grey view, whose pixels are in [0, 1]."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, compare, write."""
    parser = argparse.ArgumentParser(
        prog="python -m learning.by_hand.views",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batches", type=count, default=120, help="batches of each side (%(default)s)")
    parser.add_argument("--images", type=count, default=Settings().images, help="scenes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of both sides (%(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the table (%(default)s)")
    options = parser.parse_args(arguments)
    settings = Settings(images=options.images, batch=min(Settings().batch, options.images))
    source = probes.scenes(settings, "train")
    rows = compare(
        our_views(source, settings, options.batches, options.seed),
        views_by_hand(source, settings, options.batches, options.seed), settings.batch,
    )  # fmt: skip
    write(rows, options.out / "views.csv")
    print(*map(_line, rows), sep="\n")


def our_views(source: SampleScenes, settings: Settings, batches: int, seed: int) -> np.ndarray:
    """Return pairs of views of the recipe, normalised, (n 2 3 s s)."""
    plan, _ = planned(ours.recipe_text(settings), f"seed={seed}")
    dataset = ViewDataset(plan, source, None)
    items = Epochs.of(plan.recipe, len(source)).micro_batches(0, batches)
    views = (to_device(dataset[batch], plan.views, torch.device("cpu")) for batch in items)  # type: ignore[arg-type]
    return np.concatenate([batch["pixels.scene.online"].numpy() for batch in views])


def views_by_hand(source: SampleScenes, settings: Settings, batches: int, seed: int) -> np.ndarray:
    """Return pairs of lightly's views, normalised, (n 2 3 s s)."""
    byol.seed_all(seed)
    pairs = byol.Pairs(probes.files(source), byol.make_transform(settings))
    loader = DataLoader(pairs, settings.batch, shuffle=True, drop_last=True)
    return np.concatenate([np.stack([a.numpy(), b.numpy()], 1) for a, b in islice(byol.endless(loader), batches)])


def measure(views: np.ndarray) -> dict[str, np.ndarray]:
    """Return statistics of pairs of normalised views (n 2 3 s s)."""
    pixels = views * np.array(probes.STD)[:, None, None] + np.array(probes.MEAN)[:, None, None]
    light = np.tensordot(pixels, [0.299, 0.587, 0.114], ([2], [0]))
    spread = pixels.max(2) - pixels.min(2)
    across, down = (np.abs(np.diff(light, axis=axis)).mean((2, 3)) for axis in (3, 2))
    curvature = np.abs(np.diff(light, 2, axis=3)).mean((2, 3)) + np.abs(np.diff(light, 2, axis=2)).mean((2, 3))
    both = {
        "brightness": light.mean((2, 3)), "contrast": light.std((2, 3)), "black": (light < 1 / 255).mean((2, 3)),
        "white": (light > 254 / 255).mean((2, 3)), "grey": (spread.max((2, 3)) < GREY).astype(float),
        "gradient": across + down, "direction": np.log((across + 1e-3) / (down + 1e-3)),
        "sharpness": curvature / (across + down + 1e-3),
    }  # fmt: skip
    colour = {
        "chroma": spread.mean((2, 3)), "red less green": (pixels[:, :, 0] - pixels[:, :, 1]).mean((2, 3)),
        "yellow less blue": (pixels[:, :, :2].mean(2) - pixels[:, :, 2]).mean((2, 3)),
    }  # fmt: skip
    result = {f"{name}, view {1 + v}": value[:, v] for name, value in both.items() for v in (0, 1)}
    coloured = both["grey"] == 0
    result |= {f"{name}, view {1 + v}": value[coloured[:, v], v] for name, value in colour.items() for v in (0, 1)}
    result |= {
        f"{name}, between views": np.abs(np.diff(value[coloured.all(1)]))[:, 0] for name, value in colour.items()
    }
    centred = light - light.mean((2, 3), keepdims=True)
    scale = np.maximum(light.std((2, 3)).prod(1), 1e-6)
    result["distance between views"] = ((pixels[:, 0] - pixels[:, 1]) ** 2).mean((1, 2, 3))
    result["correlation of views"] = (centred[:, 0] * centred[:, 1]).mean((1, 2)) / scale
    return result


def compare(our: np.ndarray, by_hand: np.ndarray, batch: int) -> list[dict[str, str | float]]:
    """Return a row of figures per statistic."""
    mine, theirs = measure(our), measure(by_hand)
    rows = []
    for name in mine:
        test = ks_2samp(mine[name], theirs[name], method="asymp")
        rows.append({
            "statistic": name, "sslkit": float(mine[name].mean()), "by hand": float(theirs[name].mean()),
            "deviation": float(theirs[name].std()), "ks": float(test.statistic), "p": float(test.pvalue),
            "p over batches": _p_over_batches(mine[name], batch) if len(mine[name]) == len(our) else float("nan"),
        })  # fmt: skip
    return rows


def _p_over_batches(values: np.ndarray, batch: int) -> float:
    if not values.std() or len(values) < 2 * batch:
        return float("nan")
    return float(kruskal(*values.reshape(-1, batch)).pvalue)


def write(rows: Sequence[Mapping[str, str | float]], path: Path) -> None:
    """Write the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(
            [[f"{item:.4g}" if isinstance(item, float) else item for item in row.values()] for row in rows]
        )


def _line(row: Mapping[str, str | float]) -> str:
    figures = " ".join(f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float))
    return f"{row['statistic']:34} {figures}"


if __name__ == "__main__":
    main()
