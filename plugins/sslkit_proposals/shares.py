"""The option `--shard`: the share of the images that one of several builds searches."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from sslkit.api import Progress, Proposer, Source
from sslkit.errors import UsageError
from sslkit_proposals.store import Share
from sslkit_proposals.stored_proposer import StoredProposer

SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")


def build_share(source: Source, proposer: Proposer, shard: str, progress: Progress, jobs: int) -> None:
    """Build the share of `source` that `shard` names; see `parse_share`.

    Raises:
        UsageError: `shard` is invalid, or the proposer stores nothing.
        DataError: No image of the share could be read.
    """
    if not isinstance(proposer, StoredProposer):
        raise UsageError(f"--shard {shard}: the proposer '{proposer.name}' has nothing to build")
    proposer.build(source, progress, jobs, parse_share(shard, os.environ))


def parse_share(shard: str, environment: Mapping[str, str]) -> Share:
    """Parse "I/N" (I from 0) or "slurm", which means the position of this task in its SLURM array.

    Raises:
        UsageError: The text is neither, I is not below N, or this is not a task of an evenly spaced SLURM array.
    """
    if shard == "slurm":
        return _slurm_share(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", shard, re.ASCII)
    if not match:
        raise UsageError(f"--shard {shard}: write I/N, for example 0/16, or slurm in a task of a SLURM array")
    index, count = int(match[1]), int(match[2])
    if index >= count:
        hint = "; for a SLURM array that begins at 1, write --shard slurm" if index == count else ""
        raise UsageError(f"--shard {shard}: shares count from 0, so the last of {count} is {count - 1}/{count}{hint}")
    return Share(index, count)


def _slurm_share(environment: Mapping[str, str]) -> Share:
    values = [environment.get(name, "") for name in SLURM]
    if not all(value.isdecimal() for value in values):
        shown = ", ".join(f"{name}={value or 'unset'}" for name, value in zip(SLURM, values, strict=True))
        raise UsageError(
            f"--shard slurm: this process is not a task of a SLURM array ({shown}); start it with sbatch --array=0-15"
        )
    task, first, step, count = (int(value) for value in values)
    index, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= index < count:
        raise UsageError(
            f"--shard slurm: task {task} is not one of {count} evenly spaced tasks from {first} on, so it has no share:"
            f" write an array without gaps, such as --array=0-{max(count - 1, 0)}, or --shard I/N"
        )
    return Share(index, count)
