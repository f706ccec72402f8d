"""The comparison of a killed run with a whole one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sslkit.cli.show.verify import print_resume
from sslkit.errors import SslkitError, UsageError
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.verify import attempts, resume

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


# ------------------------------------------------------------------------------------------------------------ kills


@pytest.mark.parametrize(
    ("steps", "kills", "save_every", "expected"),
    [(60, None, None, (10, 5)), (60, 3, None, (3, 5)), (6, None, None, (4, 1)), (6, 1, 2, (1, 2)), (3, 1, 1, (1, 1))],
)
def test_kills_and_checkpoints_fit_into_the_steps(steps, kills, save_every, expected):
    assert resume.fitting(steps, kills, save_every) == expected


@pytest.mark.parametrize(("steps", "kills", "save_every"), [(6, 1, 5), (2, None, None), (6, 10, None), (60, 3, 60)])
def test_kills_that_do_not_fit_are_refused(steps, kills, save_every):
    with pytest.raises(UsageError, match=r"leaves room for (no kill|1 kill|\d+ kills): write more --steps"):
        resume.fitting(steps, kills, save_every)


TRAINING = """
import json, sys, time
from pathlib import Path
steps, every, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3], "recipe", sys.argv[4] + "-s0")
saved, metrics = folder / "checkpoints", folder / "metrics.jsonl"
saved.mkdir(parents=True, exist_ok=True)
newest = saved / "newest.json"
start = json.loads(newest.read_text())["step"] if newest.exists() else 0
for step in range(start + 1, steps + 1):
    time.sleep(0.02)
    if step % every == 0:
        part = saved / f".step.{time.time_ns()}.part"
        part.touch()
        time.sleep(0.01)
        part.rename(saved / f"step-{step:08d}.pt")
        (saved / "new").write_text(json.dumps({"step": step}))
        (saved / "new").rename(newest)
with metrics.open("a") as file:
    file.write("")
time.sleep(0.2)  # a run still has weights to write when it has taken its last step
"""
"""A stand-in for a run that tells its steps by its checkpoints alone, as runs of a second do."""


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Return a function that compares two stand-ins for runs, and leaves the folder of the second."""
    monkeypatch.setattr(resume, "hashes", lambda run: {})
    monkeypatch.setattr(resume, "faults", lambda a, b: [])

    def compare(steps, every, kills):
        init = attempts.Attempts.__init__

        def stand_in(self, command, folder):
            init(self, command, folder)
            self.command = [sys.executable, "-S", "-c", TRAINING, str(steps), str(every), str(folder), self.arm]

        monkeypatch.setattr(attempts.Attempts, "__init__", stand_in)
        told = []
        return resume.compare([], tmp_path, steps, every, kills, 0, told.append), told

    return compare


@pytest.mark.parametrize(("steps", "every", "kills"), [(6, 1, 1), (8, 1, 3), (30, 2, 5)])
def test_every_kill_leads_to_a_resume_from_a_checkpoint(compare, steps, every, kills):
    comparison, told = compare(steps, every, kills)
    assert len(comparison.kills) == len(comparison.resumes) == kills
    assert comparison.is_enough
    assert comparison.resumes == sorted(comparison.resumes)
    assert all(every <= kill.checkpoint <= kill.step <= steps for kill in comparison.kills)
    assert [kill.saving for kill in comparison.kills].count(True) >= kills // 3
    assert told[1].endswith(f"resumes from step {comparison.resumes[0]}")


def test_fewer_kills_than_asked_for_are_not_enough(compare, capsys):
    comparison, told = compare(3, 1, 9)
    assert len(comparison.kills) < 9
    assert not comparison.is_enough
    assert "the run ended before kill" in told[-1]
    print_resume(comparison)
    assert "fewer than the 9 that were asked for" in " ".join(capsys.readouterr().out.split())


def test_a_kill_before_the_first_checkpoint_counts_for_no_resume():
    comparison = resume.ResumeComparison(6, {}, {}, [attempts.Kill(2, False, 0), attempts.Kill(5, False, 4)], asked=2)
    assert comparison.resumes == [4]
    assert not comparison.is_enough
