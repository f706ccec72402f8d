"""Train a long run with loader processes, and measure the memory of all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from faults.outcome import Part

RECIPE = """
batch_size = 16
[source]
use = "sample-scenes"
images = 2000
side = 96
[proposals]
use = "random-boxes"
min_side = 16
[sampler]
use = "overlapping-scenes"
instances = 2
[backbone]
use = "resnet18"
width = 8
[heads.main]
projector = { use = "mlp", hidden = 16, out = 8 }
predictor = { use = "mlp", hidden = 16 }
[objectives.scene-scene]
[[augment.scene]]
size = 32
[[augment.instance]]
size = 24
[objectives.scene-instance]
[optimizer]
use = "sgd"
base_lr = 0.05
"""
BOUNDS = {"resident": 1.05, "own": 1.1}
"""Factor on the memory after a tenth of the steps; pages stop being shared when either process writes to them."""
_EVERY_S = 0.2  # metrics are written once a second


@dataclass(frozen=True)
class Memory:
    """Memory of a run and its loader processes, in MB, each kind summed over them.

    Attributes:
        resident: Resident set; pages that several processes map count in each.
        own: Memory that would be free if they ended: pages that no other process maps.
    """

    step: int
    resident: float
    own: float


def memory_of(step: int, pid: int, workers: int) -> Memory | None:
    """Return the memory of a process and its loader processes; None while not all of them run."""
    try:
        parent = psutil.Process(pid)
        found = [process.memory_full_info() for process in (parent, *parent.children(recursive=True))]
    except psutil.Error:
        return None
    if len(found) <= workers:
        return None
    return Memory(step, sum(info.rss for info in found) / 2**20, sum(info.uss for info in found) / 2**20)


def campaign(folder: Path, steps: int, workers: int) -> Part:
    """Train, and compare the resident memory after a tenth of the steps with that at the end.

    Args:
        folder: An empty folder.
        steps: Optimizer steps.
        workers: Loader processes.
    """
    part = Part("memory")
    (folder / "long.toml").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "sslkit", "run", "long.toml", "--set", f"steps={steps}", "--workers", str(workers)]
    metrics = folder / "runs/long/full-s0/metrics.jsonl"
    seen: list[Memory] = []
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "err").open("w") as err, subprocess.Popen(
        [*command, "--accelerator", "cpu"], cwd=folder, stdout=subprocess.DEVNULL, stderr=err, env=env
    ) as process:  # fmt: skip
        while process.poll() is None:
            time.sleep(_EVERY_S)
            step = len(metrics.read_bytes().splitlines()) if metrics.exists() else 0
            if step and (now := memory_of(step, process.pid, workers)):
                seen.append(now)
    part.cases[f"{steps} steps, {workers} loader processes"] = 1
    if process.returncode:
        part.fault("memory", (folder / "err").read_text()[-500:], "memory.campaign")
        return part
    judge(part, seen, steps)
    return part


def judge(part: Part, seen: Sequence[Memory], steps: int) -> None:
    """Compare the memory after a tenth of the steps with that at the end."""
    training = [item for item in seen if steps // 10 <= item.step < steps]
    if len(training) < 3:
        part.fault("memory", f"measured {len(training)} times only: train for more steps", "memory.campaign")
        return
    count = max(3, len(training) // 20)
    early, late = training[:count], training[-count:]
    each = max(1, len(seen) // 20)
    part.figures = {
        kind: {
            "behind_a_tenth_mb": round(_mean(early, kind), 1),
            "at_the_end_mb": round(_mean(late, kind), 1),
            "ratio": round(_mean(late, kind) / _mean(early, kind), 4),
            "course_mb": [round(_mean(seen[at : at + each], kind), 1) for at in range(0, len(seen), each)],
        }
        for kind in BOUNDS
    }
    for kind, bound in BOUNDS.items():
        found = part.figures[kind]
        if found["ratio"] > bound:
            part.fault(f"{kind} memory", f"{found['ratio']} times that behind a tenth of the steps", "memory.campaign")


def _mean(seen: Sequence[Memory], kind: str) -> float:
    return sum(getattr(item, kind) for item in seen) / len(seen)
