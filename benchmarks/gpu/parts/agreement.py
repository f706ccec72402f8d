"""The same optimizer steps on two devices: losses and weights step by step.

The reference is the CPU in float32. A lane beside it is

- "from the reference's state", which it takes over before every step. What is compared is one step: the losses, and
  the update, |u' - u| / |u| with u = w after the step less w before it, over all parameters of the online network;
- "on its own" from the first step on. What is compared is where its weights have got to: |w' - w| / |w - w0|.

Two right implementations are not equally near at every size. A rounding error that moves an activation across a ReLU's
kink switches its gradient on or off: if a share s of them changes sides, the update differs by about sqrt(s), some
1e-3 in float32 and 0.1 in bfloat16. From there on it grows. The lane "nudged" shows by how much: it is the reference,
from weights that were changed by up to 2e-7 of their size, four roundings of float32. After the last step a device may
have got five times as far from the reference.

Without a GPU the other device is the CPU without oneDNN, so with torch's own convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gpu.lanes import LOSS, STEPS, UPDATE, Lane, difference, without_tf32
from gpu.record import Job

NUDGE, FACTOR = 2.0**-22, 5.0
"""Relative change of the weights of "nudged", and how many times as far as that lane a device may get."""
RESERVE_S = 1.5


@dataclass(frozen=True)
class Tolerance:
    """The largest differences in a step from the same state.

    Attributes:
        loss: |loss' - loss| of the loss and of every term; terms are of size 1.
        update: |u' - u| / |u|.
    """

    loss: float
    update: float


TOLERANCES = {"float32": Tolerance(LOSS, UPDATE), "bf16": Tolerance(0.05, 0.3)}


def run(job: Job) -> None:
    """Compare the devices in the precision that the part is named after."""
    with without_tf32() if job.name == "float32" else nullcontext():
        reference = Lane("32-true", "cpu")
        others = lanes(job.name)
        check_views(job, reference, next(iter(others.values())))
        rows = steps(job, reference, others)
    follower, alone = next(iter(others)), [name for name, lane in others.items() if not lane.follows]
    check_steps(job, rows, follower)
    if alone and len(rows) == STEPS:
        check_path(job, rows, *alone)


def lanes(part: str) -> dict[str, Lane]:
    """Return the lanes beside the reference. The first follows it, and has to agree."""
    on_gpu = torch.cuda.is_available()
    if part == "bf16":
        cpu = {"CPU, bf16": Lane("bf16-mixed", "cpu", follows=True)}
        return {"GPU, bf16": Lane("bf16-mixed", "cuda", follows=True), **cpu} if on_gpu else cpu
    name, device, one_dnn = ("GPU", "cuda", True) if on_gpu else ("CPU without oneDNN", "cpu", False)
    return {
        name: Lane("32-true", device, follows=True, one_dnn=one_dnn),
        f"{name}, on its own": Lane("32-true", device, one_dnn=one_dnn),
        "CPU, nudged": Lane("32-true", "cpu", nudge=NUDGE),
    }


def check_views(job: Job, reference: Lane, other: Lane) -> None:
    """Check that both devices see the same views."""
    mine, theirs = reference.first_views(), other.first_views()
    worst = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    job.record.check("largest difference of a normalised pixel", worst, "at most 1e-05", worst <= 1e-5)


def steps(job: Job, reference: Lane, others: Mapping[str, Lane]) -> list[dict[str, Any]]:
    """Take the steps in turn and record the differences after each; stop when the time is nearly over."""
    rows: list[dict[str, Any]] = []
    for number in range(1, STEPS + 1):
        for lane in others.values():
            if lane.follows:
                lane.take_over(reference)
        mine = reference.step()
        row: dict[str, Any] = {"step": number, "loss on the CPU": mine["loss"]}
        for name, lane in others.items():
            row |= difference(name, mine, lane.step(), reference, lane)
        rows.append(row)
        job.record.table("differences from the CPU in float32, step by step", rows)
        job.record.put(steps=rows, tolerance=vars(TOLERANCES[job.name]), factor=FACTOR)
        if job.left < RESERVE_S:
            job.record.note(f"There was time for {number} of {STEPS} steps.")
            break
    return rows


def check_steps(job: Job, rows: list[dict[str, Any]], name: str) -> None:
    """Check every step from the same state."""
    limits = TOLERANCES[job.name]
    for what, column, limit in (("loss or term", "terms", limits.loss), ("update", "update", limits.update)):
        worst = max(row[f"{name}: {column}"] for row in rows)
        claim = f"{name}: largest difference of {'an' if what == 'update' else 'a'} {what}, of {len(rows)} steps"
        job.record.check(claim, worst, f"at most {limit:g}", worst <= limit)


def check_path(job: Job, rows: list[dict[str, Any]], alone: str, nudged: str) -> None:
    """Check where the weights get to without the reference's help, beside "nudged"."""
    ratio = rows[-1][f"{alone}: weights"] / rows[-1][f"{nudged}: weights"]
    claim = f"{alone}: distance of the weights after {len(rows)} steps over that of '{nudged}'"
    job.record.check(claim, ratio, f"at most {FACTOR:g}", ratio <= FACTOR)
