"""A BYOL step beside bare passes of the same networks, by `speed.gpu`."""

from __future__ import annotations

import time

import torch
from speed import gpu
from speed.timing import Row, duration, ratio

from gpu.parts.conditions import clocks
from gpu.parts.sizes import Size, full, largest, reduced
from gpu.record import Job

BARE = "bare passes"
ROUNDS = 7 if torch.cuda.is_available() else 2
RESERVE_S = 4.0


def run(job: Job) -> None:
    """Measure one round, then as many more as there is time for, and record the ratios of the latest."""
    block = 5 if torch.cuda.is_available() else 1
    began = time.monotonic()
    size, rows = largest(full(), lambda size: measure(size, 1, block))
    record(job, size, rows)
    took = time.monotonic() - began
    a_round = block * sum(row["median_s"] for row in rows)
    set_up = took - 2 * a_round  # a first round warms up
    rounds = min(ROUNDS, int((job.left - RESERVE_S - 1.5 * set_up) / a_round) - 1)
    if rounds > 1:
        record(job, size, measure(size, rounds, block))


def measure(size: Size, rounds: int, block: int) -> list[Row]:
    """Return the rows of `speed.gpu`."""
    return gpu.step(size.network, size.side, size.batch, rounds, block)


def record(job: Job, size: Size, rows: list[Row]) -> None:
    """Record rows and ratios."""
    bare, batch = rows[0]["median_s"], size.batch
    shown = [
        {"variant": row["variant"], "over bare passes": row["median_s"] / bare, "a step": duration(row["median_s"]),
         "quartiles": f"{duration(row['low_s'])} to {duration(row['high_s'])}", "images/s": batch / row["median_s"],
         "rounds": row["n"]}
        for row in rows
    ]  # fmt: skip
    job.record.table(rows[0]["what"], shown)
    ratios = {name: ratio(rows, name, BARE) for name in ("sslkit", "sslkit, augmenting")}
    after = clocks()
    job.record.put(rows=rows, ratios=ratios, batch=batch, clocks_after=after)
    notes = (reduced(size), f"The card just after the steps: {after}." if after else "")
    job.record.content["notes"] = [note for note in notes if note]
    job.record.save()
