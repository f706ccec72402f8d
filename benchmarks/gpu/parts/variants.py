"""Steps with an option of `sslkit run` beside plain ones on the same device: equal losses, and the ratio of speeds.

--cuda-graph has to give the same bits as plain steps. --compile fuses operations and so rounds differently: each of its
steps, from the plain lane's state, has to agree as closely as two devices do (`gpu.parts.agreement`). Speed is measured
on images in memory, without the more costly monitors.

Without a GPU, --compile gets a backbone of one layer: on two cores, torch compiles a larger one for minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from speed import gpu
from speed.step import Ours, with_one_layer
from speed.timing import duration, interleaved, ratio

from gpu.lanes import LOSS, STEPS, UPDATE, Lane, difference, without_tf32
from gpu.parts.sizes import Size, largest
from gpu.recipe import FILE
from gpu.record import Job, SkippedError

OPTIONS = {"compile": "compile", "cuda-graph": "cuda_graph"}
"""Part -> field of `RunOptions`."""
ROUNDS, RESERVE_S = 5, 4.0
LARGER = ("backbone.use=resnet50", *(f"augment.scene.{view}.size=224" for view in (0, 1)),
          *(f"augment.instance.{view}.size=96" for view in (0, 1)), "sampler.min_overlap=32")  # fmt: skip
"""UniVIP's sizes of views."""


def run(job: Job) -> None:
    """Compare losses and speed in the recipe's size; on a GPU also the speed with a ResNet-50, if there is time.

    Raises:
        SkippedError: CUDA graphs need a GPU.
    """
    on_gpu = torch.cuda.is_available()
    if job.name == "cuda-graph" and not on_gpu:
        raise SkippedError("CUDA graphs need a GPU")
    size = Size("small-resnet", 32, 64) if on_gpu else Size("one-layer", 32, 8)
    with without_tf32():
        compare(job, size.network)
    began = time.monotonic()
    measure(job, size, f"backbone.use={size.network}")
    if on_gpu and job.left > 4 * (time.monotonic() - began) + RESERVE_S:
        largest(Size("resnet50", 224, 128), lambda size: measure(job, size, *LARGER))


def compare(job: Job, network: str) -> None:
    """Take the same steps with and without the option, and check the differences."""
    option, follows = f"--{job.name}", job.name == "compile"
    make = partial(Lane, "32-true", gpu.DEVICE, sets=[f"backbone.use={network}"], plugins=with_one_layer())
    plain = make()
    others = {option: make(follows=follows, **{OPTIONS[job.name]: True})}
    if not follows:
        others["plain, again"] = make()  # without the same bits here, a graph cannot have them either
    rows: list[dict[str, Any]] = []
    for number in range(1, STEPS + 1):
        if follows:
            others[option].take_over(plain)
        began = time.monotonic()
        mine = plain.step()
        row = {"step": number, "plain loss": mine["loss"]}
        for name, lane in others.items():
            row |= difference(name, mine, lane.step(), plain, lane)
        rows.append({**row, "seconds of all": time.monotonic() - began})
        job.record.table(f"{option} beside plain steps, float32", rows)
    limits = (LOSS, UPDATE) if follows else (0.0, 0.0)
    columns = [name for name in rows[0] if name.startswith(f"{option}: ")]
    for column, limit in zip(columns, limits, strict=True):
        worst = max(row[column] for row in rows)
        job.record.check(f"{column}, largest of {STEPS} steps", worst, f"at most {limit:g}", worst <= limit)
    job.record.put(steps=rows)


def measure(job: Job, size: Size, *sets: str) -> None:
    """Time plain steps and steps with the option in turn."""
    block = 10 if torch.cuda.is_available() else 1
    plain, other = (
        lane(replace(gpu.options(), **changes), f"batch_size={size.batch}", *sets)
        for changes in ({}, {OPTIONS[job.name]: True})
    )
    warm_up(other)
    names = {"plain": in_blocks(plain, block), f"--{job.name}": in_blocks(other, block)}
    rows = interleaved(f"UniVIP step, {size}", names, ROUNDS, units=block)
    gain = ratio(rows, *names)
    cells = [
        {"variant": row["variant"], "a step": duration(row["median_s"]), "speed": rows[0]["median_s"] / row["median_s"],
         "images/s": size.batch / row["median_s"], "rounds": row["n"]}
        for row in rows
    ]  # fmt: skip
    job.record.table(f"UniVIP step, {size}, default precision", cells)
    job.record.put(**{f"rows, {size.network}": rows, f"gain, {size.network}": gain})


def lane(options: Any, *sets: str) -> Ours:
    """Return the recipe's steps on images in memory, on the device."""
    ours = Ours(FILE.read_text(), "probes={}", *sets, options=options, plugins=with_one_layer())
    gpu.move_images(ours)
    return ours


def warm_up(ours: Ours, steps: int = 5) -> None:
    """Take the steps in which torch compiles, or a graph is recorded."""
    for _ in range(steps):
        ours()
    gpu.done()


def in_blocks(ours: Ours, block: int) -> Callable[[], None]:
    """Return a function that takes some steps and waits for the device."""

    def run() -> None:
        for _ in range(block):
            ours()
        gpu.done()

    return run
