"""The fault campaign: `nox -s faults`, or `PYTHONPATH=benchmarks python -m faults`.

    --short         what the test suite runs: a few of each
    --seed N        seed of all random draws; 0 by default
    --only PART     recipes, checkpoints, images, annotations, components, paths, kills, memory; may be repeated
    --out FILE      figures and faults as JSON

The exit code is 1 if sslkit did not survive something; each such case is printed with what reproduces it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from faults import annotations, checkpoints, components, images, kills, memory, paths, recipes
from faults.outcome import Part

PARTS: dict[str, Callable[[Path, int], Part]] = {
    "recipes": lambda folder, seed: recipes.campaign(folder, seed, generate=3000, mutate=330),
    "checkpoints": lambda folder, seed: checkpoints.campaign(folder),
    "images": lambda folder, seed: images.campaign(folder, seed, damaged=800, good=400),
    "annotations": lambda folder, seed: annotations.campaign(folder, seed, coco=1500, voc=800, tars=700),
    "components": lambda folder, seed: components.campaign(folder, seed, each=500),
    "paths": lambda folder, seed: paths.campaign(folder, seed, cases=400),
    "kills": lambda folder, seed: kills.campaign(folder, seed, kills=12, steps=60),
    "memory": lambda folder, seed: memory.campaign(folder, steps=2000, workers=3),
}
"""Name -> function that runs the part in an empty folder."""
SHORT: dict[str, Callable[[Path, int], Part]] = {
    "recipes": lambda folder, seed: recipes.campaign(folder, seed, generate=60, mutate=22),
    "checkpoints": lambda folder, seed: checkpoints.campaign(folder, checkpoints.FEW),
    "images": lambda folder, seed: images.campaign(folder, seed, damaged=60, good=20),
    "annotations": lambda folder, seed: annotations.campaign(folder, seed, coco=100, voc=50, tars=50),
    "components": lambda folder, seed: components.campaign(folder, seed, each=50),
    "paths": lambda folder, seed: paths.campaign(folder, seed, cases=15),
    "memory": lambda folder, seed: memory.campaign(folder, steps=150, workers=2),
}
"""The sizes that the test suite runs; kills have tests of their own."""


def run(parts: dict[str, Callable[[Path, int], Part]], seed: int) -> dict[str, Part]:
    """Run parts, each in an empty folder, and print the result of each."""
    done = {}
    for name, campaign in parts.items():
        began = time.monotonic()
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            part = done[name] = campaign(Path(folder).resolve(), seed)
        part.figures["seconds"] = round(time.monotonic() - began)
        print(f"{name}: {sum(part.cases.values())} cases, {len(part.faults)} not survived, {part.figures['seconds']} s")
        for fault in part.faults:
            print(f"\n{fault.case}: {fault.what}\n    again: {fault.again}\n")
    return done


def main() -> int:
    """Run the campaign and write its figures."""
    parser = argparse.ArgumentParser(prog="faults", description="Inject faults, and see what is not survived.")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(PARTS))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    offered = SHORT if asked.short else PARTS
    done = run({name: part for name, part in offered.items() if not asked.only or name in asked.only}, asked.seed)
    if asked.out:
        about = {"python": platform.python_version(), "torch": torch.__version__, "seed": asked.seed}
        report = {**about, "parts": [part.as_json() for part in done.values()]}
        asked.out.write_text(json.dumps(report, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
    return int(any(part.faults for part in done.values()))


if __name__ == "__main__":
    sys.exit(main())
