"""Images per second from JPEG files, beside what a step takes, by `speed.gpu`."""

from __future__ import annotations

import time

import torch
from speed import gpu, photos
from speed.timing import duration

from gpu.parts.sizes import full, reduced
from gpu.record import Job
from sslkit.folders import cores

PHOTOS, ROUNDS = 64 if torch.cuda.is_available() else 16, 2
"""Images on disk, and rounds of the first measurement."""
LONGER, SECONDS, RESERVE_S = 3, 20.0 if torch.cuda.is_available() else 2.0, 3.0
"""How many times as long the next measurement is, the most seconds for it, and seconds that it leaves."""


def run(job: Job) -> None:
    """Measure the loader with one process per core but one, then longer while there is time."""
    size, workers = full(), max(1, cores() - 1)
    root = photos.draw(job.work / "photos", PHOTOS).resolve()
    step, rounds, took = job.earlier.get("step", {}).get("data", {}), ROUNDS, 0.0
    while LONGER * took < min(SECONDS, job.left - RESERVE_S):
        began = time.monotonic()
        [row] = gpu.loader(root, size.side, size.batch, rounds * workers, workers)
        rounds, took, rate = LONGER * rounds, time.monotonic() - began, 1 / row["median_s"]
        cells = {"processes": workers, "an image": duration(row["median_s"]), "images/s": rate, "rounds": row["n"]}
        job.record.table(row["what"], [cells])
        job.record.put(row=row, images_per_s=rate)
    if rows := step.get("rows"):
        taken = step["batch"] / rows[-1]["median_s"]
        job.record.put(over_step=rate / taken)
        job.record.note(f"The loader gives {rate / taken:.3g} times the images that a BYOL step takes.")
    if note := reduced(size):
        job.record.note(note)
