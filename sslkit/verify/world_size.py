"""Compare the same global batches on one rank and on several, and name what breaks equality."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sslkit.errors import SslkitError
from sslkit.storage import checkpoint
from sslkit.verify.trace import KINDS, UNSAVED, Step

TOLERANCE = 1e-6
"""Relative tolerance. Everything is float64; a change of the method differs by far more."""
_EXACT = ("images", "boxes")
_CAUSES = {
    "initial weights": "the initial weights: ranks begin with different weights",
    "images": "the data split: together, ranks do not read the images that one rank reads, in that order",
    "boxes": "the sampler: it draws from something besides its generator",
    "views": "the augmentation: views of the same boxes have different pixels",
    "schedule": "the learning-rate rule",
    "forward": "the forward pass",
    "terms": "gather: the objective sees the rows of its own rank only (couples_batch = True gives it all of them), "
    "or draws random numbers",
    "gradients": "gather: terms are equal but gradients are not",
    "online": "the optimizer",
    "target": "the update of the target network",
    "state": "a queue, centre or other state that is updated with the rows of one rank only",
    "processes": "the ranks: their weights drift apart",
}
BATCH_NORM = "batch norm statistics: each rank normalises with its own images"
_NORMS = ("BatchNorm", "SyncBatchNorm")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Names of the buffers of batch norm."""
_RANDOM = ("Dropout", "DropPath", "StochasticDepth")
_SMALL = 1e-3
"""Gradients that are zero up to rounding do not count as different: values smaller than this share of the largest
value of their kind are compared relative to that share."""


@dataclass(frozen=True)
class FirstDifference:
    """The first place, in the order of a step, where two numbers of ranks differ.

    Attributes:
        step: Optimizer step, from 1.
        kind: One of `trace.KINDS`.
        name: Name of the module, term, parameter or buffer.
        relative: Relative difference.
        component: Description of what breaks equality.
    """

    step: int
    kind: str
    name: str
    relative: float
    component: str


@dataclass
class WorldSizeComparison:
    """A comparison of two numbers of ranks.

    Attributes:
        sizes: The two numbers of ranks.
        steps: Optimizer steps that were compared.
        largest: Kind -> the largest relative difference.
        compared: Kind -> names of what was compared, over all steps.
        first: The first difference, if any.
        whole_batch_norm: The same comparison with batch norm over all ranks, if batch norm is the first difference.
    """

    sizes: tuple[int, int]
    steps: int
    largest: dict[str, float]
    first: FirstDifference | None
    whole_batch_norm: WorldSizeComparison | None = None
    compared: dict[str, list[str]] = field(default_factory=dict)

    @property
    def breaking(self) -> list[str]:
        """Everything that breaks equality: batch norm, and what else does so."""
        later = self.whole_batch_norm.breaking if self.whole_batch_norm else []
        return ([self.first.component] if self.first else []) + later


def compare(
    command: Sequence[str], folder: Path, sizes: Sequence[int], report: Callable[[str], None]
) -> list[WorldSizeComparison]:
    """Take the same steps on each number of ranks, and compare each with the first.

    Args:
        command: Arguments of `sslkit` that trace, without the number of ranks and the file.
        folder: Folder for the traces.
        sizes: Numbers of ranks.
        report: Receives a line of progress for each trace.

    Raises:
        SslkitError: A run fails; the message shows its output.
    """
    first, *others = sizes
    base = _trace(command, folder, first, False, report)
    comparisons = []
    for size in others:
        comparison = compare_traces(base, _trace(command, folder, size, False, report), (first, size))
        if comparison.first and comparison.first.component == BATCH_NORM:
            one = base if first == 1 else _trace(command, folder, first, True, report)
            other = _trace(command, folder, size, True, report)
            comparison.whole_batch_norm = compare_traces(one, other, (first, size))
        comparisons.append(comparison)
    return comparisons


def _trace(
    command: Sequence[str], folder: Path, size: int, whole_batch_norm: bool, report: Callable[[str], None]
) -> list[Step]:
    """Take the steps on `size` ranks, in separate processes."""
    ranks = f"{size} rank{'s' * (size > 1)}"
    report(f"{ranks}{', batch norm over all of them' if whole_batch_norm else ''}")
    file = folder / f"{size}{'-whole' * whole_batch_norm}.pt"
    more = ["--devices", str(size), "--strategy", "ddp" if size > 1 else "auto", "--out", str(file)]
    args = [sys.executable, "-m", "sslkit", *command, *more, *(["--whole-batch-norm"] if whole_batch_norm else [])]
    done = subprocess.run(args, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode:
        lines = "\n".join(f"    {line}" for line in done.stderr.splitlines()[-15:])
        raise SslkitError(f"the steps on {ranks} ended with code {done.returncode}:\n{lines}")
    steps: list[Step] = checkpoint.load(file)["steps"]
    return steps


def compare_traces(one: Sequence[Step], other: Sequence[Step], sizes: tuple[int, int]) -> WorldSizeComparison:
    """Compare two traces with the same number of steps."""
    largest = dict.fromkeys(KINDS, 0.0)
    compared: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    first = None
    for step, (a, b) in enumerate(zip(one, other, strict=True), 1):
        for kind in KINDS:
            for name, relative in _differences(a[kind], b[kind]):
                compared[kind][name] = None
                largest[kind] = max(largest[kind], relative)
                if first is None and relative > (0.0 if kind in _EXACT else TOLERANCE):
                    first = FirstDifference(step, kind, name, relative, _component(kind, name))
    names = {kind: list(by_kind) for kind, by_kind in compared.items()}
    return WorldSizeComparison(sizes, len(one), largest, first, compared=names)


def _differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield each name with its relative difference: infinite where one lacks it, or has another shape."""
    floor = _SMALL * max((_size(value) for value in one.values()), default=0.0)
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if (a is None or b is None) and name.endswith(UNSAVED):
            continue
        yield name, torch.inf if a is None or b is None or a.shape != b.shape else _relative(a, b, floor)


def _size(value: Tensor) -> float:
    return float(value.nan_to_num().abs().max()) if value.numel() else 0.0


def _relative(a: Tensor, b: Tensor, floor: float) -> float:
    """Return the largest difference of (n m) and (n m), relative to the largest number of either; NaNs are equal."""
    difference = (a - b).masked_fill(a.isnan() & b.isnan(), 0.0)
    if difference.isnan().any():
        return torch.inf
    size = max(_size(a), _size(b), floor)
    return _size(difference) / size if size else 0.0


def _component(kind: str, name: str) -> str:
    """Describe what breaks equality."""
    if kind == "forward" and any(f"({norm}" in name for norm in _NORMS):
        return BATCH_NORM
    if kind == "state" and name.rpartition(".")[2] in STATISTICS:
        return BATCH_NORM
    if kind == "forward" and any(f"({module}" in name for module in _RANDOM):
        return "random numbers: every rank draws its own"
    if name.endswith(UNSAVED):
        return f"{_CAUSES[kind]}; no checkpoint holds it, so that a resumed run loses it"
    if kind == "schedule" and name == "target momentum":
        return "the target momentum"
    return _CAUSES[kind]
