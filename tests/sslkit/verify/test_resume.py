"""The comparison of a killed run with a whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sslkit.errors import SslkitError
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.verify import resume

MODEL = {"online.w": torch.ones(2, 3), "target.w": torch.zeros(2), "objectives.moco.queue": torch.arange(4.0)}


def make_run(folder: Path, metrics: list[dict[str, Any]] | None = None, **changes: Any) -> RunFolder:
    """Write and return a run's folder with a checkpoint and metrics."""
    state = {"step": 3, "model": MODEL, "optimizer": {"state": {0: {"m": torch.ones(2)}}}, "counts": {"a": 1.0}}
    checkpoint.add(folder / "checkpoints", {**state, **changes}, 1)
    lines = (
        [{"step": step, "loss": float(step), "images_per_s": 3.0} for step in (1, 2, 3)] if metrics is None else metrics
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunFolder(folder)


def test_equal_bits_have_equal_hashes_and_each_component_its_own(tmp_path: Path) -> None:
    first, second = resume.hashes(make_run(tmp_path / "a")), resume.hashes(make_run(tmp_path / "b"))
    assert first == second
    assert first.keys() == {"online", "target", "objectives.moco", "step", "optimizer", "counts"}


@pytest.mark.parametrize(
    ("changes", "component"),
    [
        ({"model": {**MODEL, "online.w": torch.ones(2, 3).index_fill(1, torch.tensor(0), 1 + 2**-23)}}, "online"),
        ({"model": {**MODEL, "online.w": torch.ones(3, 2)}}, "online"),
        ({"model": {**MODEL, "target.w": -torch.zeros(2)}}, "target"),
        ({"model": {**MODEL, "objectives.moco.queue": torch.arange(4.0).half()}}, "objectives.moco"),
        ({"optimizer": {"state": {0: {"m": torch.ones(2).neg()}}}}, "optimizer"),
        ({"counts": {"a": 1.0000000000000002}}, "counts"),
        ({"counts": {}}, "counts"),
    ],
)
def test_one_different_bit_shows_in_its_component(tmp_path: Path, changes: dict[str, Any], component: str) -> None:
    first, second = resume.hashes(make_run(tmp_path / "a")), resume.hashes(make_run(tmp_path / "b", **changes))
    comparison = resume.ResumeComparison(3, first, second)
    assert comparison.differs == [component]


def test_the_metrics_of_both_are_compared_without_timings(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "a")
    rows = [{"step": step, "loss": float(step), "images_per_s": 9.0, "alike.forward_ms": 1.0} for step in (1, 2, 3)]
    assert resume.faults(whole, make_run(tmp_path / "b", rows)) == []
    for number, (lines, words) in enumerate([
        (rows[:1] + rows[2:], "metrics: missing at steps 2"),
        ([*rows, rows[1]], "metrics: doubled at steps 2"),
        ([rows[0], {**rows[1], "loss": 7.0}, rows[2]], "metrics: different at steps 2"),
        (rows[::-1], "metrics: steps are out of order"),
    ]):  # fmt: skip
        assert resume.faults(whole, make_run(tmp_path / f"c{number}", lines)) == [words]


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SslkitError, match="has no checkpoint to compare"):
        resume.hashes(RunFolder(tmp_path))
