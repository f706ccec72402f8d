"""Measure the cost of the monitors: train a run twice in one process, step by step in turn, with and without them.

python benchmarks/monitors.py recipes/quickstart.toml --steps 100 --every 50
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median

from sslkit.data.opening import prepare
from sslkit.networks import monitors
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.plugins import Plugins
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.setup import set_up
from sslkit.training.step import TrainStep


class Lane:
    """One of the two runs.

    Attributes:
        on: Whether the run has monitors; without them, even those of every step are left out.
        wall: Wall-clock seconds of each step.
        cpu: Seconds of processor time of this process in each step.
    """

    def __init__(self, path: str, every: int, steps: int) -> None:
        text = recipe_file.read(Path(path))
        parsed, _ = recipe_file.check_structure(text)
        assert parsed, "the recipe has problems: sslkit check lists them"
        plan, problems = make_plan(parsed, Plugins.load())
        assert plan, problems
        options = RunOptions(accelerator="cpu", workers=0, monitor_every=every)
        fabric = launch(plan, options)
        source, proposals = prepare(plan, text)
        self.setup = set_up(plan, options, fabric, source, proposals)
        self.train_step = TrainStep(self.setup)
        self.loader = self.setup.loader(0, steps)
        self.train_step.network.train()
        self.on, self.wall, self.cpu = every > 0, list[float](), list[float]()

    def step(self) -> None:
        """Take one step."""
        with _switched(self.on):
            wall, cpu = time.perf_counter(), time.process_time()
            terms = self.train_step(self.loader)
            self.train_step.state.collapse.update(self.train_step.state.step, terms, once=True)
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    original = monitors.every_step
    monitors.every_step = original if on else lambda *_: {}
    try:
        yield
    finally:
        monitors.every_step = original


def main() -> None:
    """Measure and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, default=100, help="timed steps of each run, after one warm-up step")
    parser.add_argument("--every", type=int, default=50)
    args = parser.parse_args()
    lanes = [Lane(args.recipe, every, args.steps + 1) for every in (args.every, 0)]
    for number in range(args.steps + 1):
        for lane in lanes if number % 2 else reversed(lanes):
            lane.step()
    on, off = lanes
    places = range(1, args.steps + 1)
    due = [place for place in places if args.every and (place + 1) % args.every == 0]
    for name in ("wall", "cpu"):
        a, b = getattr(on, name), getattr(off, name)
        more = {place: 1e3 * (a[place] - b[place]) for place in places}
        cheap, dear = ([more[place] for place in places if (place in due) == is_due] for is_due in (False, True))
        print(
            f"{name}: with {sum(a[1:]):.2f} s, without {sum(b[1:]):.2f} s, ratio {sum(a[1:]) / sum(b[1:]):.4f}; "
            f"a step without takes {1e3 * median(b[1:]):.1f} ms; monitors of every step add {fmean(cheap):+.2f} ms, "
            f"and all monitors {fmean(dear or [0]):+.1f} ms"
        )


if __name__ == "__main__":
    main()
