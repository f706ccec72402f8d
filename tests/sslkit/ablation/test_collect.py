"""Results, read from the folders of runs."""

from __future__ import annotations

import json

import pytest
import torch

from sslkit.ablation.collect import collect_results
from sslkit.errors import DataError


def test_arms_are_paired_and_their_metrics_are_read_back(ablation, train):
    planned = ablation(vary=["objectives.alike.weight=0.5"])
    planned.write_recipes()
    for run in planned.runs():
        train(run)
    results = collect_results(planned, "sslkit ablate dots")
    assert results.metrics == ("nearest top1",)
    assert [arm.name for arm in results.arms] == ["full", "objectives.alike.weight=0.5"]
    assert results.varied == ("objectives.alike.weight",)
    full, arm = results.arms
    assert [trial.state for trial in (*full.trials, *arm.trials)] == ["finished"] * 4
    for a, b in zip(full.trials, arm.trials, strict=True):
        assert a.references == b.references, "the same crops, the same random weights"
        assert list(a.references) == ["raw pixels", "random weights", "random weights, calibrated"]
        assert a.images_per_s > 0
        assert a.peak_memory > 50e6
    probes = json.loads((planned.variants[0].runs[0].folder.path / "probes.json").read_text())
    assert full.trials[0].metrics == {"nearest top1": probes["trained"]["nearest"]["top1"]}
    assert "torch" in results.versions


def test_runs_with_other_threads_are_noted(ablation, train):
    planned = ablation(vary=["objectives.alike.weight=0.5"], seeds=(3,))
    planned.write_recipes()
    for run, threads in zip(planned.runs(), (1, 2), strict=True):
        torch.set_num_threads(threads)
        train(run)
    notes = collect_results(planned, "").notes
    assert notes == ("runs differ in threads: 1, 2; this changes the order of sums, and so rounding, at equal seeds",)


def test_stopped_and_failed_runs_are_holes_with_a_reason(ablation, train):
    planned = ablation(vary=["source.broken=[5]"], seeds=(3,))
    planned.write_recipes()
    good, bad = planned.runs()
    train(good, stop_after=2)
    with pytest.raises(DataError, match="1 of 12 images cannot be used"):
        train(bad)
    results = collect_results(planned, "sslkit ablate dots")
    assert [arm.trials[0].state for arm in results.arms] == ["stopped", "failed"]
    assert "1 of 12 images cannot be used" in results.arms[1].trials[0].reason
    assert not results.arms[0].trials[0].metrics
    good.code = -9
    assert (good.state, good.reason) == ("failed", "killed by signal 9")
