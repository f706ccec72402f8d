"""The study's tables and curves are those of its runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sslkit.ablation.results import ArmResult, Results, Trial, dump

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
SEEDS = (0, 1, 2)
METRICS = ("a-knn top1", "a-knn balanced", "b-linear map")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def trial(arm, seed, offset):
    return Trial(
        seed, f"runs/photos/{arm}-s{seed}", "finished",
        metrics={"a-knn top1": 0.30 + 0.01 * seed + offset, "a-knn balanced": 0.1, "b-linear map": 0.5 + offset},
        references={"raw pixels": {"a-knn top1": 0.2, "a-knn balanced": 0.1, "b-linear map": 0.3}},
    )  # fmt: skip


@pytest.fixture
def results():
    """Two arms of three seeds, of which one run failed."""
    full = ArmResult("full", "0", ("one", "two"), {}, 1.0, [trial("full", seed, 0.0) for seed in SEEDS])
    trials = [trial("drop-two", seed, 0.02 * seed) for seed in SEEDS]
    dropped = ArmResult("drop-two", "1", ("one",), {}, 1.0, trials)
    failed = ArmResult("byol", "2", ("one",), {}, 1.0, [Trial(seed, "runs/photos/byol", "failed") for seed in SEEDS])
    return Results("photos", "", "sslkit ablate", SEEDS, (full, dropped, failed), ("one", "two"), (), METRICS)


def cells(markdown):
    """Return arm -> column -> cell."""
    head, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in markdown.splitlines())
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_the_table_has_means_and_paired_intervals(results):
    from learning.report import table

    rows = cells(table(results, {}))
    assert list(rows) == ["full", "drop-two", "byol", "raw pixels"]
    assert list(rows["full"]) == ["%", "a-knn top1", "b-linear map", "mean"]
    assert rows["full"]["a-knn top1"] == "31.0 ± 1.0"
    differences = np.array([0.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    assert rows["drop-two"]["b-linear map"] == f"52.0 ± 2.0<br>+2.0 [{low:+.1f}, {high:+.1f}]"
    assert rows["drop-two"]["mean"] == f"42.5 ± 2.5<br>+2.0 [{low:+.1f}, {high:+.1f}]"
    assert rows["byol"]["mean"] == "not finished"
    assert rows["raw pixels"]["b-linear map"] == "30.0 ± 0.0<br>**-20.0 [-20.0, -20.0]**"


def test_the_ceiling_is_averaged_over_the_seeds_that_have_it(results):
    from learning.report import table

    ceilings = {
        "0": {"a-knn": {"top1": 0.6}, "b-linear": {"map": 0.8}},
        "1": {"a-knn": {"top1": 0.7}, "b-linear": {"map": 0.8}},
        "2": {"a-knn": {"top1": 0.8}},
    }
    row = cells(table(results, ceilings))["trained with labels"]
    assert [row[name] for name in ("a-knn top1", "b-linear map", "mean")] == ["70.0 ± 10.0", "80.0 ± 0.0", "72.5 ± 3.5"]


def run_folder(root, folder, scores):
    """Write what the report reads of a finished run of two epochs with 8 images a step."""
    path = root / folder
    path.mkdir(parents=True)
    records = [
        {"step": step, "loss": 1.0, "sampler.fallback": step / 100, "sampler.filled": 0.5} for step in (1, 2, 3, 4)
    ]
    for record, score in zip(records[1::2], scores, strict=True):
        record["probe.a-knn.top1"] = score
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "status.json").write_text(json.dumps({"images": 32}))
    baselines = {"random weights": 0.25}
    probes = {"a-knn": {"metric": "top1", "baselines": baselines}}
    (path / "online_probes.json").write_text(json.dumps({"probes": probes}))


def test_curves_and_counts_are_read_from_the_runs_and_kept(results, tmp_path):
    from learning.report import main

    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.json").write_text(json.dumps(dump(results)))
    for seed in SEEDS:
        run_folder(tmp_path, f"runs/photos/full-s{seed}", (0.3, 0.4 + 0.1 * seed))
    out = tmp_path / "out"
    main(out, {"UniVIP": tmp_path / "study"}, tmp_path, None)
    with (out / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["images"], row["seeds"]) for row in rows] == [
        ("UniVIP, full", "16", "3"), ("UniVIP, full", "32", "3"),
    ]  # fmt: skip
    assert float(rows[1]["mean"]) == pytest.approx(0.5)
    half = 0.1 / 3**0.5 * stats.t.ppf(0.975, 2)
    assert float(rows[1]["half of the 95 % interval"]) == pytest.approx(half, abs=1e-5)
    page = (out / "tables.md").read_text()
    assert "| full | 2.5 % | 0.50 |" in page
    assert (out / "curves.png").stat().st_size > 10_000
    before = {name: (out / name).read_bytes() for name in ("tables.md", "curves.csv", "runs.json")}
    for seed in SEEDS:
        (tmp_path / f"runs/photos/full-s{seed}/metrics.jsonl").unlink()
    main(out, {"UniVIP": tmp_path / "study"}, tmp_path, None)  # the runs are gone, their figures are not
    assert before == {name: (out / name).read_bytes() for name in before}
