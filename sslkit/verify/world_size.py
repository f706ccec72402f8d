"""Compare the same global batches on one process and on several, and name what breaks equality."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sslkit.errors import SslkitError
from sslkit.storage import checkpoint
from sslkit.verify.trace import KINDS, Step

TOLERANCE = 1e-6
"""Relative. All is float64; another method differs by far more."""
_EXACT = ("images", "boxes")
_WORDS = {
    "initial weights": "the initial weights: processes begin with weights of their own",
    "images": "the data split: processes do not take the images, in the order, that one process takes",
    "boxes": "the sampler: it does not draw from its generator alone",
    "views": "the augmentation: views of the same boxes have other pixels",
    "schedule": "the learning-rate rule",
    "forward": "the forward pass",
    "terms": "gather: the objective sees the rows of its own process only (couples_batch = True hands it all), "
    "or draws random numbers",
    "gradients": "gather: terms are equal and gradients are not",
    "online": "the optimizer",
    "target": "the target's update",
    "state": "a queue, centre or other state, which is updated with the rows of one process only",
    "processes": "the processes: their weights drift apart",
}
BATCH_NORM = "batch norm statistics: each process normalises by the images of its own"
_NORMS = ("BatchNorm", "SyncBatchNorm")
_STATISTICS = ("running_mean", "running_var")
_DRAWING = ("Dropout", "DropPath", "StochasticDepth")
_SMALL = 1e-3
"""Gradients that are zero but for rounding are no difference: what is smaller than the largest of its kind by this
factor is measured by that."""


@dataclass(frozen=True)
class FirstDifference:
    """The first place, in the order of a step, where a number of processes makes another method.

    Attributes:
        step: From 1.
        kind: Of `tracing.KINDS`.
        name: Of the module, term, parameter or buffer.
        relative: How large.
        component: What breaks equality, in words.
    """

    step: int
    kind: str
    name: str
    relative: float
    component: str


@dataclass
class WorldSizeComparison:
    """A number of processes, beside another one.

    Attributes:
        sizes: The two numbers.
        steps: That were compared.
        largest: Kind -> the largest relative difference.
        first: Where they part, if they do.
        whole: The same with batch norm over all processes, where it is batch norm that makes them part.
    """

    sizes: tuple[int, int]
    steps: int
    largest: dict[str, float]
    first: FirstDifference | None
    whole: WorldSizeComparison | None = None

    @property
    def breaking(self) -> list[str]:
        """What breaks equality: batch norm, and what does besides."""
        later = self.whole.breaking if self.whole else []
        return ([self.first.component] if self.first else []) + later


def compare(
    command: Sequence[str], folder: Path, sizes: Sequence[int], say: Callable[[str], None]
) -> list[WorldSizeComparison]:
    """Take the same steps with every number of processes, and compare each with the first.

    Args:
        command: Arguments of `sslkit` that trace, but for the number of processes and the file.
        folder: For the traces.
        sizes: Numbers of processes.
        say: Told of each.

    Raises:
        SslkitError: A run fails by itself; its words are shown.
    """
    first, *others = sizes
    base = _traced(command, folder, first, False, say)
    made = []
    for size in others:
        found = compare_traces(base, _traced(command, folder, size, False, say), (first, size))
        if found.first and found.first.component == BATCH_NORM:
            ours = base if first == 1 else _traced(command, folder, first, True, say)
            found.whole = compare_traces(ours, _traced(command, folder, size, True, say), (first, size))
        made.append(found)
    return made


def _traced(command: Sequence[str], folder: Path, size: int, whole: bool, say: Callable[[str], None]) -> list[Step]:
    """Take the steps with `size` processes, in processes of their own."""
    say(f"{size} process{'es' * (size > 1)}{', batch norm over all of them' if whole else ''}")
    file = folder / f"{size}{'-whole' * whole}.pt"
    more = ["--devices", str(size), "--strategy", "ddp" if size > 1 else "auto", "--out", str(file)]
    args = [sys.executable, "-m", "sslkit", *command, *more, *(["--whole-batch-norm"] if whole else [])]
    done = subprocess.run(args, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode:
        told = "\n".join(f"    {line}" for line in done.stderr.splitlines()[-15:])
        raise SslkitError(f"{size} process{'es' * (size > 1)} ended with code {done.returncode}:\n{told}")
    steps: list[Step] = checkpoint.load(file)["steps"]
    return steps


def compare_traces(one: Sequence[Step], other: Sequence[Step], sizes: tuple[int, int]) -> WorldSizeComparison:
    """Compare two traces of as many steps."""
    largest = dict.fromkeys(KINDS, 0.0)
    first = None
    for step, (a, b) in enumerate(zip(one, other, strict=True), 1):
        for kind in KINDS:
            for name, relative in _differences(a[kind], b[kind]):
                largest[kind] = max(largest[kind], relative)
                if first is None and relative > (0.0 if kind in _EXACT else TOLERANCE):
                    first = FirstDifference(step, kind, name, relative, _component(kind, name))
    return WorldSizeComparison(sizes, len(one), largest, first)


def _differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield each name with its relative difference; infinite where one has it not, or in another shape."""
    floor = _SMALL * max((_size(held) for held in one.values()), default=0.0)
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        yield name, torch.inf if a is None or b is None or a.shape != b.shape else _relative(a, b, floor)


def _size(held: Tensor) -> float:
    return float(held.nan_to_num().abs().max()) if held.numel() else 0.0


def _relative(a: Tensor, b: Tensor, floor: float) -> float:
    """Return how far (n m) and (n m) are apart, in parts of the largest number of either; two NaNs are alike."""
    apart = (a - b).masked_fill(a.isnan() & b.isnan(), 0.0)
    if apart.isnan().any():
        return torch.inf
    size = max(_size(a), _size(b), floor)
    return _size(apart) / size if size else 0.0


def _component(kind: str, name: str) -> str:
    """Say what breaks equality."""
    if kind == "forward" and any(f"({norm}" in name for norm in _NORMS):
        return BATCH_NORM
    if kind == "state" and name.rpartition(".")[2] in _STATISTICS:
        return BATCH_NORM
    if kind == "forward" and any(f"({drawing}" in name for drawing in _DRAWING):
        return "random numbers: every process draws others"
    if kind == "schedule" and name == "target momentum":
        return "the target momentum"
    return _WORDS[kind]
