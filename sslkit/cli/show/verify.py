"""Show a replayed step, and comparisons of resumed runs and of numbers of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sslkit.cli.show.tables import make_table, print_parts
from sslkit.verify.replay import ReplayResult
from sslkit.verify.resume import ResumeComparison
from sslkit.verify.world_size import STATISTICS, TOLERANCE, WorldSizeComparison


def describe_replay(result: ReplayResult) -> dict[str, Any]:
    """Describe a replayed step. Values are strings as Python writes them, because JSON has no NaN."""
    return {
        "step": result.step,
        "then": {name: repr(value) for name, value in result.then.items()},
        "now": {name: repr(value) for name, value in result.now.items()},
        "differs": result.differs,
        "same_images": result.same_images,
        "first_bad": result.first_bad,
    }


def print_replay(result: ReplayResult) -> None:
    """Print the recorded and the replayed values of a step, and the first non-finite output."""
    table = make_table(f"Step {result.step}", "", "then", "now")
    for name, value in result.then.items():
        mark = " differs" if name in result.differs else ""
        table.add_row(name, f"{value:.6g}", f"{result.now[name]:.6g}{mark}")
    print_parts(table)
    bad = result.first_bad
    print_parts(f"first non-finite output: {bad}" if bad else "the output of every module was finite")
    if not result.same_images:
        print_parts("the images differ from the record: the source has changed")
    if result.differs:
        print_parts(f"{len(result.differs)} of {len(result.then)} values differ from the record")
    else:
        print_parts("the same as in the record, bit for bit")


def describe_resume(comparison: ResumeComparison) -> dict[str, Any]:
    """Describe a run that was killed and resumed, beside one that was not."""
    return {
        "steps": comparison.steps,
        "asked": comparison.asked,
        "kills": [asdict(kill) for kill in comparison.kills],
        "resumes": len(comparison.resumes),
        "whole": comparison.uninterrupted,
        "killed": comparison.killed,
        "differs": comparison.differs,
    }


def print_resume(comparison: ResumeComparison) -> None:
    """Print the hashes of both runs, component by component."""
    table = make_table("", "component", "without kills", "with kills", "", left=4)
    for name, value in comparison.uninterrupted.items():
        other = comparison.killed.get(name, "(none)")
        table.add_row(name, value, other, "same" if value == other else "differs")
    saving = sum(kill.saving for kill in comparison.kills)
    count = len(comparison.kills)
    kills = f"{count} kill{'s' * (count != 1)}, {saving} of them during a save, in {comparison.steps} steps"
    resumes = f"{len(comparison.resumes)} led to a resume from a checkpoint"
    verdict = f"differs in {', '.join(comparison.differs)}" if comparison.differs else "bit for bit the same"
    print_parts(table, *comparison.lines, f"{kills}; {resumes}: {verdict}")
    if not comparison.is_enough:
        fewer = f"fewer than the {comparison.asked} that were asked for: the run ended too soon"
        print_parts(f"{fewer}; write more --steps, or a smaller --save-every")


def describe_world_sizes(comparisons: Sequence[WorldSizeComparison]) -> list[dict[str, Any]]:
    """Describe each number of ranks beside the first."""
    return [
        {
            "sizes": list(item.sizes), "steps": item.steps, "largest": item.largest, "breaking": item.breaking,
            "compared": item.compared,
            "first": item.first and asdict(item.first),
            "whole_batch_norm": describe_world_sizes([item.whole_batch_norm])[0] if item.whole_batch_norm else None,
        }
        for item in comparisons
    ]  # fmt: skip


def print_world_sizes(comparisons: Sequence[WorldSizeComparison]) -> None:
    """Print the largest differences between the first number of ranks and each of the others."""
    for item in comparisons:
        columns = ["as configured", "batch norm over all ranks"] if item.whole_batch_norm else ["difference"]
        table = make_table("", "", "compared", *columns, left=4)
        for kind, value in item.largest.items():
            others = [item.whole_batch_norm.largest[kind]] if item.whole_batch_norm else []
            count = len(item.compared.get(kind, ()))
            table.add_row(kind, str(count or "-"), *(_difference(relative) for relative in (value, *others)))
        print_parts(table, _states(item), _verdict(item, ""))
        if item.whole_batch_norm:
            print_parts(_verdict(item.whole_batch_norm, ", with batch norm over all ranks"))


def _difference(relative: float) -> str:
    if relative == 0:
        return "bit for bit the same"
    return f"{relative:.1e}" + (" differs" if relative > TOLERANCE else "")


def _states(comparison: WorldSizeComparison) -> str:
    """Say which state of objectives and heads was compared: what is none of it may differ unseen."""
    states = [name for name in comparison.compared.get("state", ()) if name.rpartition(".")[2] not in STATISTICS]
    listed = ", ".join(states[:8]) + (f" and {len(states) - 8} more" if len(states) > 8 else "")
    return f"state that was compared, besides statistics of batch norm: {listed or 'none'}"


def _verdict(comparison: WorldSizeComparison, condition: str) -> str:
    one, other = (f"{size} rank{'s' * (size > 1)}" for size in comparison.sizes)
    if comparison.first is None:
        return f"{one} and {other}{condition}: the same up to rounding, {comparison.steps} steps"
    first = comparison.first
    return (
        f"{one} and {other}{condition} differ, first in step {first.step} at {first.name} by {first.relative:.1e}: "
        f"{first.component}"
    )
