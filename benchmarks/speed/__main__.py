"""Measure every claim about speed in one run: `nox -s bench`, or `PYTHONPATH=benchmarks python -m speed`.

    --size SIZE     small (two minutes; shows that it works), medium or full (as on the page); medium by default
    --only PART     views, loader, end-to-end, step, small, univip, loop, help or transport; may be repeated
    --photos DIR    JPEGs to read; without it, scenes are drawn
    --out DIR       for speed.md, speed.json and speed.png; the working folder by default

Variants of the same work take turns. Ratios come first, each beside its target. The exit code is 0 whatever they are: a
ratio is measured here, not tested.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from speed.figures import read, written
from speed.timing import Row


class Size(NamedTuple):
    """The amount of work: timed rounds, images of a round, batches of a loader, steps of a run."""

    rounds: int
    photos: int
    batches: int
    steps: int
    resnet18: tuple[int, int] = (96, 64)
    resnet50: tuple[int, int] = (224, 16)


SIZES = {
    "small": Size(1, 4, 3, 2, (32, 8), (64, 8)),  # smaller sizes divide by a spread close to zero
    "medium": Size(3, 32, 50, 6, (96, 32), (224, 4)),
    "full": Size(7, 64, 200, 24),
}


def views(size: Size, photos: Path) -> list[Row]:
    from speed.views import one_core

    return one_core(photos, size.photos, size.rounds)


def loader(size: Size, photos: Path) -> list[Row]:
    from speed.views import loader

    return loader(photos, size.batches, max(1, size.rounds // 2))


def end_to_end(size: Size, photos: Path) -> list[Row]:
    from speed.end_to_end import end_to_end

    return end_to_end(photos, size.steps, size.resnet18[1], max(1, size.rounds // 2), size.resnet18[0])


def step(size: Size, photos: Path) -> list[Row]:  # noqa: ARG001
    from speed.step import byol

    return [*byol("resnet18", *size.resnet18, size.rounds), *byol("resnet50", *size.resnet50, size.rounds)]


def small(size: Size, photos: Path) -> list[Row]:  # noqa: ARG001
    from speed.step import byol

    batches = (64, 8) if size.rounds > 1 else (8, 4)
    rounds = 3 * size.rounds
    return [*byol("small-resnet", 32, batches[0], rounds), *byol("resnet18", 32, batches[1], rounds)]


def univip(size: Size, photos: Path) -> list[Row]:  # noqa: ARG001
    from speed.step import univip

    return univip("resnet50", size.resnet50[1], size.rounds, size.resnet50[0])


def loop(size: Size, photos: Path) -> list[Row]:  # noqa: ARG001
    from speed.step import loop

    return loop(5 * size.rounds)


def help_(size: Size, photos: Path) -> list[Row]:  # noqa: ARG001
    from speed.step import help_

    return help_(5 * size.rounds)


def transport(size: Size, photos: Path) -> list[Row]:  # noqa: ARG001
    from speed.transport import rows, solver_rows

    found = rows(rounds=10 * size.rounds, loops=size.rounds)
    return [*found, *solver_rows(64, rounds=3 * size.rounds), *solver_rows(512, rounds=size.rounds)]


PARTS: Mapping[str, tuple[Callable[[Size, Path], list[Row]], int | None]] = {
    "views": (views, 1), "loader": (loader, 1), "end-to-end": (end_to_end, None), "step": (step, None),
    "small": (small, None),
    "univip": (univip, None), "loop": (loop, 1), "help": (help_, None), "transport": (transport, 1),
}  # fmt: skip
"""Name -> the function that measures it, and its number of threads; None for one per core."""


def main() -> None:
    """Measure each part in a process of its own, with its own number of threads, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="medium")
    parser.add_argument("--only", action="append", choices=list(PARTS))
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return measure(args.part, SIZES[args.size], args.photos, args.out)
    with tempfile.TemporaryDirectory() as folder:
        photos = args.photos or drawn(Path(folder), SIZES[args.size].photos)
        found: dict[str, list[Row]] = {}
        for name in args.only or PARTS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            out = Path(folder) / f"{name}.json"
            command = ["--size", args.size, "--part", name, "--photos", str(photos.resolve()), "--out", str(out)]
            threads = PARTS[name][1]
            env = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
            if threads is None:
                env.pop("OMP_NUM_THREADS", None)
            subprocess.run([sys.executable, "-m", "speed", *command], env=env, check=True)
            found[name] = read(out)
        described = "photographs" if args.photos else "drawn scenes"
        less = "" if args.size == "full" else " (less than what the claims name)"
        print(written(found, args.out, f"{args.size}{less}, {described}"))
    return None


def drawn(folder: Path, count: int) -> Path:
    from speed.photos import draw

    return draw(folder / "photos", count)


def measure(part: str, size: Size, photos: Path, out: Path) -> None:
    """Measure one part in this process, and write its rows."""
    import cv2
    import torch

    from speed.figures import write

    run, threads = PARTS[part]
    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    write(run(size, photos), out)


if __name__ == "__main__":
    main()
