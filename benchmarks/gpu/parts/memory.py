"""The peak memory of a UniVIP step, by `speed.gpu`."""

from __future__ import annotations

import torch
from speed import gpu

from gpu.parts.sizes import Size, free, full, largest, reduced
from gpu.record import Job

SIZE = full() if torch.cuda.is_available() else Size("resnet18", 32, 2)
"""`speed.gpu` takes the shipped recipe, whose backbone has options that the small network lacks."""


def run(job: Job) -> None:
    """Measure the peak of two steps, plain and with --checkpoint-activations."""
    rows: list[dict[str, object]] = []
    sizes = set()
    for saving in (False, True):
        size, peak = largest(SIZE, lambda size, saving=saving: peak_bytes(size, saving))  # type: ignore[misc]
        sizes.add(size)
        name = "--checkpoint-activations" if saving else "plain"
        rows.append({"step": name, "batch": size.batch, "peak": f"{peak / 2**30:.2f} GiB", "bytes": peak})
        job.record.table(f"UniVIP step, {size.network}, scene views of {size.side} px", rows)
    job.record.put(rows=rows, of="the GPU" if torch.cuda.is_available() else "the whole process")
    for note in filter(None, map(reduced, sorted(sizes))):
        job.record.note(note)
    if not torch.cuda.is_available():
        job.record.note("On a CPU, this is the peak of the whole process so far, so the second is never the smaller.")


def peak_bytes(size: Size, saving: bool) -> int:
    """Return the peak, as torch's allocator counts it on a GPU."""
    free()
    return gpu.memory(size.network, size.side, size.batch, saving)
