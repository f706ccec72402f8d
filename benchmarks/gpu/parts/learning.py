"""UniVIP on the built-in scenes in the time that is left, with the curve of its loss and of its online probes.

A short run shows how long a run takes besides its steps, and how long a step takes. The steps of the long run follow
from that, because its schedules have to know them.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

import sslkit
from gpu.recipe import FILE
from gpu.record import Job, read_json
from sslkit.report.curves import read_log, thin
from sslkit.storage.run_folder import ONLINE_PROBES, PROBE_TERM

POINTS, APART = 12, 5
"""Measurements of the online probes, and the fewest steps between two."""
SHORT_STEPS, FEWEST_STEPS = (60, 100) if torch.cuda.is_available() else (10, 20)
SAFETY = 0.85
"""Share of the time that the long run is planned for."""
LEARNS = 50_000
"""Images after which the linear probe has to be above random weights; with fewer, the curve is shown as it is."""
MOST_IMAGES = 1_000_000
EVERY_S = 3.0
"""Seconds between updates of the curve."""
TOP1 = "top1"


class Times(NamedTuple):
    """Seconds of a step, of measuring the probes once, and of a run besides its steps and online probes."""

    step: float
    probes: float
    rest: float


def run(job: Job) -> None:
    """Train, and record the curve, also while the run trains."""
    batch = 64 if torch.cuda.is_available() else 16
    changes = {"batch_size": batch} | ({} if torch.cuda.is_available() else smaller())
    times = measure(job, changes)
    steps = planned_steps(times, job.left, MOST_IMAGES // batch)
    every = max(APART, steps // POINTS)
    job.record.put(steps=steps, batch=batch, seconds=times._asdict())
    job.record.note(f"{steps:,} steps of {batch}, so {steps * batch:,} images.")
    with watching(job, folder(job, "long"), batch):
        result = train(job, "long", {**changes, "steps": steps}, probe_every=every)
    final(job, result, steps * batch)


def smaller() -> dict[str, Any]:
    """Return changes with which a run on two cores ends within a minute."""
    probes = {"linear": {"size": 32, "limit": 300, "loosen": {}}, "knn": {"size": 32, "limit": 300, "loosen": {}}}
    return {"probes": probes, "optimizer.warmup_epochs": 0, "source.images": 200, "precision": "32-true"}


def train(job: Job, arm: str, changes: Mapping[str, Any], **options: Any) -> Any:
    """Train an arm of the recipe."""
    recipe = sslkit.load(FILE, set=changes)
    return sslkit.train(recipe, runs=job.work / "runs", arm=arm, cache_gb=1.0, **options)


def folder(job: Job, arm: str) -> Path:
    """Return the folder of an arm."""
    return job.work / "runs" / FILE.stem / f"{arm}-s0"


# ------------------------------------------------------------------------------------------------- how many steps


def measure(job: Job, changes: Mapping[str, Any]) -> Times:
    """Measure a short run."""
    began = time.time()
    result = train(job, "short", {**changes, "steps": SHORT_STEPS, "optimizer.warmup_epochs": 0})
    ended = time.time()
    rates = [rate for rate in read_log(result.folder)["images_per_s"][1][SHORT_STEPS // 2 :] if rate]
    step = changes["batch_size"] / statistics.median(rates)
    weights = next(result.folder.glob("*.safetensors")).stat().st_mtime  # written before the last probes
    probes = ended - weights
    return Times(step, probes, ended - began - SHORT_STEPS * step)


def planned_steps(times: Times, left: float, most: int) -> int:
    """Return the number of steps for which the time suffices."""
    seconds = SAFETY * left - times.rest - POINTS * times.probes
    return max(FEWEST_STEPS, min(most, int(seconds / times.step)))


# ------------------------------------------------------------------------------------------------- curves and scores


@contextmanager
def watching(job: Job, run: Path, batch: int) -> Iterator[None]:
    """Record the curve every few seconds: a run that is ended leaves it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_S):
            curves(job, run, batch)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        curves(job, run, batch)


def curves(job: Job, run: Path, batch: int) -> None:
    """Record the curves of the loss and of the online probes."""
    log = read_log(run)
    if "loss" in log:
        thinned = thin(*log["loss"])
        points = [(batch * step, value[1]) for step, value in zip(thinned.steps, thinned.values, strict=True) if value]
        job.record.curve("loss", "images", {"loss": points}, {})
    lines = {name.removeprefix(PROBE_TERM): seen(log[name], batch) for name in log if name.startswith(PROBE_TERM)}
    if lines:
        job.record.curve("online probes", "images", lines, levels(run))


def seen(curve: tuple[Sequence[float], Sequence[float | None]], batch: int) -> list[tuple[float, float]]:
    """Return the points of a curve against images, without values that are not finite."""
    return [(batch * step, value) for step, value in zip(*curve, strict=True) if value is not None]


def levels(run: Path) -> dict[str, float]:
    """Return what the online probes are compared with: "knn.top1, random weights" -> score."""
    probes = (read_json(run / ONLINE_PROBES) or {}).get("probes", {})
    return {
        f"{name}.{entry['metric']}, {kind}": value
        for name, entry in probes.items()
        for kind, value in entry["baselines"].items()
    }


def final(job: Job, result: Any, images: int) -> None:
    """Record the last scores beside their references, and check what can be asked of a run of this length."""
    scores: Mapping[str, Mapping[str, Mapping[str, float]]] = result.probes
    rows = [
        {"probe": name, **{kind: values[name][TOP1] for kind, values in scores.items()}} for name in scores["trained"]
    ]
    job.record.table("probes on loose boxes, top-1", rows)
    job.record.put(probes=scores, seconds_of_run=result.seconds)
    job.record.check("state", result.state, "finished", result.state == "finished")
    best = max(values["linear"][TOP1] for kind, values in scores.items() if kind.startswith("random"))
    trained = scores["trained"]["linear"][TOP1]
    if images >= LEARNS:
        job.record.check("linear probe", trained, f"above random weights, {best:.3g}", trained > best)
    else:
        job.record.note(f"Too few images to learn from: after {LEARNS:,} the linear probe has to beat random weights.")
