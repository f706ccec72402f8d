"""BYOL by hand from lightly's modules beside `sslkit run`, at equal settings, measured by the same probes.

cd benchmarks && python -m learning.by_hand
cd benchmarks && python -m learning.by_hand --last-norm

Each side is trained at each seed, one after the other; what is finished in RUNS is not computed again, so the command
can be stopped and repeated. results.json, curves.csv and curves.png are written to OUT after each seed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from learning.arguments import count
from learning.by_hand import byol, curves, ours, probes
from learning.by_hand.settings import Settings
from torch import Tensor

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, compare."""
    parser = argparse.ArgumentParser(
        prog="python -m learning.by_hand", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = Settings()
    parser.add_argument("--images", type=count, default=sizes.images, help="scenes to train on (%(default)s)")
    parser.add_argument("--test-images", type=count, default=sizes.test_images, help="scenes to test on (%(default)s)")
    parser.add_argument("--batch", type=count, default=sizes.batch, help="images per step (%(default)s)")
    parser.add_argument("--steps", type=count, default=sizes.steps, help="optimizer steps (%(default)s)")
    parser.add_argument("--points", type=int, nargs="+", default=sizes.points, help="steps to measure after")
    parser.add_argument("--warmup", type=int, default=sizes.warmup, help="steps of the warm-up (%(default)s)")
    parser.add_argument("--last-norm", action="store_true", help="batch norm after the projector, on both sides")
    parser.add_argument("--seeds", type=count, default=3, help="seeds of each side (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs and finished sides")
    parser.add_argument("--out", type=Path, help="folder of the results (learning/by_hand/results, or -last-norm)")
    options = parser.parse_args(arguments)
    settings = replace(
        sizes, images=options.images, test_images=options.test_images, batch=options.batch, steps=options.steps,
        points=tuple(options.points), warmup=options.warmup, last_norm=options.last_norm,
    )  # fmt: skip
    if problem := _problem(settings):
        parser.error(problem)
    torch.set_num_threads(1)
    suffix = "-last-norm" if settings.last_norm else ""
    compare(settings, options.seeds, options.runs / f"by-hand{suffix}", options.out or HERE / f"results{suffix}")


def _problem(settings: Settings) -> str:
    """Say what cannot be trained or measured, or nothing."""
    if settings.images < settings.batch:
        return f"{settings.images} images do not fill a batch of {settings.batch}"
    if max(settings.points) > settings.steps:
        return f"point {max(settings.points)} lies beyond the last of {settings.steps} steps"
    return f"{settings.warmup} steps of warm-up leave none of {settings.steps}" * (settings.warmup >= settings.steps)


def compare(settings: Settings, seeds: int, runs: Path, out: Path) -> None:
    """Train and measure both sides at each seed, and write the results so far."""
    train, test = probes.scenes(settings, "train"), probes.scenes(settings, "val")
    crops = probes.cut(train, settings.size, 0), probes.cut(test, settings.size, 1)
    measured: dict[str, dict[int, dict[int, dict[str, float]]]] = {arm: {} for arm in curves.ARMS}
    for seed in range(seeds):
        for arm in curves.ARMS:
            folder = runs / f"{arm.replace(' ', '-')}-s{seed}"
            done = _finished(folder / "curve.json", settings)
            if done is None:
                weights = (
                    by_hand(probes.files(train), settings, seed)
                    if arm == curves.HAND
                    else ours.train(settings, seed, folder)
                )
                done = {step: probes.measure(weights[step], *crops) for step in settings.points}
                _finish(folder / "curve.json", settings, done)
            measured[arm][seed] = done
            shown = "  ".join(f"{step}: {100 * p['knn']:.1f}/{100 * p['linear']:.1f}" for step, p in done.items())
            print(f"{arm} seed {seed}, kNN/linear after steps  {shown}", flush=True)
        print(curves.write(measured, settings, out), flush=True)


def by_hand(files: Sequence[Path], settings: Settings, seed: int) -> dict[int, dict[str, Tensor]]:
    """Train by hand, and return the backbone's weights by the number of steps."""
    weights: dict[int, dict[str, Tensor]] = {}

    def save(step: int, backbone: torch.nn.Module) -> None:
        weights[step] = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}

    byol.train(files, settings, seed, save)
    return weights


def _finished(path: Path, settings: Settings) -> dict[int, dict[str, float]] | None:
    """Return the curve that an earlier call measured, if it had the same settings."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["settings"] != json.loads(json.dumps(asdict(settings))):
        raise SystemExit(f"{path} was measured with other settings; write another --runs, or move it away")
    return {int(step): point for step, point in content["curve"].items()}


def _finish(path: Path, settings: Settings, curve: dict[int, dict[str, float]]) -> None:
    if not all(math.isfinite(value) for point in curve.values() for value in point.values()):
        raise SystemExit(f"a measurement for {path} is not finite")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"settings": asdict(settings), "curve": curve}, indent=1), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
