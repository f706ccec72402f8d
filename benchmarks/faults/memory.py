"""A long run with loader processes, and the memory that it and they hold."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
EARLY, BOUND = 200, 1.05
_EVERY_S = 0.5


def resident(pid: int) -> tuple[float, list[float]]:
    """Return the memory of a process, and of each of its children, in MB.

    It is the proportional share of what is resident: pages that several processes map count once.
    """
    own = psutil.Process(pid)
    children = own.children(recursive=True)
    return _share(own), sorted(_share(child) for child in children)


def _share(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.Error:
        return 0.0


def campaign(folder: Path, steps: int, workers: int) -> Part:
    """Train, and compare the memory behind step 200 with that at the end.

    Args:
        folder: Empty.
        steps: Optimizer steps.
        workers: Loader processes.
    """
    part = Part("memory")
    (folder / "long.toml").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "sslkit", "run", "long.toml", "--set", f"steps={steps}", "--workers", str(workers)]
    metrics = folder / "runs/long/full-s0/metrics.jsonl"
    seen: list[tuple[int, float, list[float]]] = []
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "err").open("w") as err, subprocess.Popen(
        [*command, "--accelerator", "cpu"], cwd=folder, stdout=subprocess.DEVNULL, stderr=err, env=env
    ) as process:  # fmt: skip
        while process.poll() is None:
            time.sleep(_EVERY_S)
            step = len(metrics.read_bytes().splitlines()) if metrics.exists() else 0
            own, children = resident(process.pid)
            if step and own and len(children) >= workers:
                seen.append((step, own, children))
    part.cases[f"{steps} steps, {workers} loader processes"] = 1
    if process.returncode:
        part.fault("memory", (folder / "err").read_text()[-500:], "memory.campaign")
        return part
    early = [item for item in seen if EARLY <= item[0] < EARLY + steps // 20]
    late = [item for item in seen if steps - steps // 20 <= item[0] < steps]
    first, last = _mean(early), _mean(late)
    part.figures = {
        "behind_step_200_mb": round(first, 1),
        "at_the_end_mb": round(last, 1),
        "ratio": round(last / first, 4),
        "course_mb": [
            round(_mean(seen[at : at + len(seen) // 20]), 1) for at in range(0, len(seen), max(1, len(seen) // 20))
        ],
    }
    if last > BOUND * first:
        part.fault("memory", f"{first:.1f} MB behind step {EARLY}, {last:.1f} MB at the end", "memory.campaign")
    return part


def _mean(seen: list[tuple[int, float, list[float]]]) -> float:
    """Return the memory of all processes together, averaged over samples."""
    return sum(own + sum(children) for _, own, children in seen) / max(1, len(seen))
