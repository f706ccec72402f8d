"""Which share of the images one of several builds searches."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from sslkit.api import Progress, Proposer, Source
from sslkit.errors import UsageError
from sslkit_proposals.store import Share
from sslkit_proposals.stored import StoredProposer

SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")


def build_share(source: Source, proposer: Proposer, shard: str, progress: Progress, jobs: int) -> None:
    """Build the share of `source` that `shard` names, as `share_of` reads it.

    Raises:
        UsageError: `shard` cannot be read, or the proposer keeps nothing.
        DataError: Not one image of the share could be read.
    """
    if not isinstance(proposer, StoredProposer):
        raise UsageError(f"--shard {shard}: the proposer '{proposer.name}' has nothing to build")
    proposer.build(source, progress, jobs, share_of(shard, os.environ))


def share_of(shard: str, environment: Mapping[str, str]) -> Share:
    """Read "I/N", I from 0, or "slurm": the place of this task in its array, wherever the array begins.

    Raises:
        UsageError: It is neither, I is not below N, or this is no task of an evenly spaced SLURM array.
    """
    if shard == "slurm":
        return _slurm(environment)
    found = re.fullmatch(r"(\d+)/(\d+)", shard, re.ASCII)
    if not found:
        raise UsageError(f"--shard {shard}: write I/N, for example 0/16, or slurm in a task of a SLURM array")
    index, count = int(found[1]), int(found[2])
    if index >= count:
        hint = "; a SLURM array that begins at 1 is read by --shard slurm" if index == count else ""
        raise UsageError(f"--shard {shard}: shares count from 0, so the last of {count} is {count - 1}/{count}{hint}")
    return Share(index, count)


def _slurm(environment: Mapping[str, str]) -> Share:
    words = [environment.get(name, "") for name in SLURM]
    if not all(word.isdecimal() for word in words):
        shown = ", ".join(f"{name}={word or 'unset'}" for name, word in zip(SLURM, words, strict=True))
        raise UsageError(
            f"--shard slurm: this is no task of a SLURM array ({shown}); start it with sbatch --array=0-15"
        )
    task, first, step, count = (int(word) for word in words)
    index, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= index < count:
        raise UsageError(
            f"--shard slurm: task {task} is none of {count} evenly spaced ones from {first} on, so it has no share:"
            f" write an array without gaps, such as --array=0-{max(count - 1, 0)}, or --shard I/N"
        )
    return Share(index, count)
