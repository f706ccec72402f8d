"""The parts of the GPU rehearsal, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sslkit.__main__ import main

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def job(tmp_path):
    from gpu.record import Job, Record

    def make(name, seconds=300.0, **earlier):
        return Job(name, time.monotonic() + seconds, tmp_path, Record(tmp_path / "record.json"), earlier)

    return make


def environment():
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


# ------------------------------------------------------------------------------------------------- agreement


def test_float32_agrees_and_bfloat16_does_not_pass_for_it(job, monkeypatch):
    """The tolerance of float32 tells another precision from another implementation."""
    from gpu.parts import agreement

    first = job("float32")
    agreement.run(first)
    checks = {check["what"]: check for check in first.record.content["checks"]}
    assert len(checks) == 4
    assert not first.record.failed, checks
    rows = first.record.content["data"]["steps"]
    assert len(rows) == agreement.STEPS
    assert 0 < rows[0]["CPU without oneDNN: terms"] < 2e-6  # another implementation, not the same one twice

    second = job("float32")
    monkeypatch.setattr(agreement, "lanes", lambda _: {"bf16": agreement.Lane("bf16-mixed", "cpu", follows=True)})
    agreement.run(second)
    assert len(second.record.failed) == 2


def test_a_part_that_runs_short_of_time_says_how_far_it_got(job, monkeypatch):
    from gpu.parts import agreement

    short = job("bf16", seconds=agreement.RESERVE_S)
    agreement.run(short)
    assert short.record.content["notes"] == [f"There was time for 1 of {agreement.STEPS} steps."]
    assert len(short.record.content["data"]["steps"]) == 1


# ------------------------------------------------------------------------------------------------- speed and memory


def test_the_batch_is_halved_until_memory_suffices():
    from gpu.parts.sizes import Size, largest

    tried = []

    def attempt(size):
        tried.append(size.batch)
        if size.batch > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert largest(Size("resnet50", 224, 512), attempt) == (Size("resnet50", 224, 64), "done")
    assert tried == [512, 256, 128, 64]
    with pytest.raises(torch.OutOfMemoryError):
        largest(Size("resnet50", 224, 3), lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))


def test_what_is_measured_on_a_gpu_can_be_planned():
    from gpu.parts import variants
    from gpu.recipe import plan_of
    from speed.gpu import of_coco
    from speed.plans import planned
    from speed.step import BYOL

    larger, _ = plan_of(*variants.LARGER, "batch_size=128")
    sizes = {(group, view.size) for (group, _), views in larger.views.items() for view in views}
    assert sizes == {("scene", 224), ("instance", 96)}
    for name in ("univip_coco", "byol_coco"):
        text, sets = of_coco(name, "resnet50", 512, 224)
        assert planned(text, *sets)[0].recipe.batch_size == 512
    assert planned(BYOL.format(network="resnet50", size=224, batch=512))[0].recipe.batch_size == 512


def test_a_step_is_recorded_beside_bare_passes_and_the_loader_beside_the_step(job):
    from gpu.parts import loader, step

    first = job("step", seconds=step.RESERVE_S)  # time for one round
    step.run(first)
    data = first.record.content["data"]
    assert set(data["ratios"]) == {"sslkit", "sslkit, augmenting"}
    assert [row["n"] for row in data["rows"]] == [1, 1, 1]
    second = job("loader", seconds=20.0, step=first.record.content)
    loader.run(second)
    found = second.record.content
    taken = data["batch"] / data["rows"][-1]["median_s"]
    assert found["data"]["over_step"] == pytest.approx(found["data"]["images_per_s"] / taken)


@pytest.mark.parametrize(("change", "failed"), [(0.0, 0), (1e-6, 2)])
def test_a_graph_needs_the_bits_of_plain_steps(job, monkeypatch, change, failed):
    """A lane with slightly different weights stands in for a graph that computes something else."""
    from gpu.parts import variants

    lane = variants.Lane
    monkeypatch.setattr(
        variants, "Lane", lambda *args, cuda_graph=False, **options: lane(*args, **options, nudge=change * cuda_graph)
    )
    compared = job("cuda-graph")
    variants.compare(compared, "one-layer")
    assert [check["limit"] for check in compared.record.content["checks"]] == ["at most 0", "at most 0"]
    assert len(compared.record.failed) == failed
    assert compared.record.content["data"]["steps"][-1]["plain, again: weights"] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_graphs_are_skipped_without_a_gpu(job):
    from gpu.parts import variants
    from gpu.record import SkippedError

    with pytest.raises(SkippedError, match="CUDA graphs need a GPU"):
        variants.run(job("cuda-graph"))


# ------------------------------------------------------------------------------------------------- tests, learning


TESTS = """
import warnings
import pytest

def test_right():
    warnings.warn("old", DeprecationWarning)

@pytest.mark.skip
def test_skipped():
    pass

def test_wrong():
    raise ValueError("the reason")

def test_ends_the_process():
    import os
    os._exit(9)
"""
RUN = """
import sys, time
from pathlib import Path
from gpu.parts import tests
from gpu.record import Job, PartFailedError, Record
work = Path(sys.argv[1])
tests.ROOT, tests.FILE = work, work / "test_it.py"
(work / "pyproject.toml").write_text("[tool.pytest.ini_options]\\n")
tests.run(Job("tests", time.monotonic() + 60, work, Record(work / "r.json"), {}))
"""


def test_tests_are_recorded_as_they_come_with_the_last_lines_of_failures(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run([sys.executable, "-c", RUN, tmp_path], env=environment(), capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    data = json.loads((tmp_path / "r.json").read_text())["data"]
    assert {row["test"]: row["outcome"] for row in data["tests"]} == {
        "test_right": "passed", "test_skipped": "skipped", "test_wrong": "failed", "test_ends_the_process": "was running",
    }  # fmt: skip
    assert data["failures"]["test_wrong"].endswith("E   ValueError: the reason")
    assert data["warnings"] == ["DeprecationWarning: old"]

    (tmp_path / "test_it.py").write_text(TESTS.replace("os._exit(9)", "pass"))
    done = subprocess.run([sys.executable, "-c", RUN, tmp_path], env=environment(), capture_output=True, text=True)
    assert "PartFailedError: test_wrong" in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["notes"][0] == "2 passed, 1 failed, 1 skipped."


def test_an_ablation_that_fails_says_why(capsys):
    from gpu.parts.ablation import output, row
    from gpu.record import PartFailedError

    code = "import sys; print('words', file=sys.stderr); print('result'); sys.exit(int(sys.argv[1]))"
    assert output([sys.executable, "-c", code, "0"]) == "result\n"
    assert capsys.readouterr().err == "words\n"
    with pytest.raises(PartFailedError, match=r"^sslkit ablate ended with code 3\nwords$"):
        output([sys.executable, "-c", code, "3"])
    trial = {"state": "failed", "reason": "no data", "metrics": {"knn top1": 0.5, "knn n": 9}, "images_per_s": None}
    assert row({"name": "full", "trials": [trial]}) == {
        "arm": "full", "state": "failed: no data", "knn top1": 0.5, "images/s": None
    }  # fmt: skip


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_arms_of_the_ablation_can_be_planned(monkeypatch, capsys, on_gpu):
    from gpu.parts import ablation

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: on_gpu)
        changes = ablation.changes()
    assert main(["ablate", str(ablation.FILE), "--plan", "--json", "--drop", ablation.DROP, *changes]) == 0
    assert [arm["arm"] for arm in json.loads(capsys.readouterr().out)] == ["full", "drop-instance-instance"]


def test_the_steps_of_the_learning_run_follow_from_a_short_one():
    from gpu.parts.learning import FEWEST_STEPS, POINTS, SAFETY, Times, planned_steps

    times = Times(step=0.01, probes=0.5, rest=5.0)
    steps = planned_steps(times, left=100, most=10**6)
    assert steps * times.step + POINTS * times.probes + times.rest == pytest.approx(SAFETY * 100, abs=0.02)
    assert planned_steps(times, left=100, most=300) == 300
    assert planned_steps(times, left=3, most=10**6) == FEWEST_STEPS


def test_curves_of_a_run_that_was_ended_are_recorded(job, tmp_path):
    from gpu.parts import learning

    lines = [{"step": step, "loss": -step / 10} for step in range(1, 9)]
    lines[3] |= {"probe.linear.top1": 0.25}
    lines[7] |= {"probe.linear.top1": 0.5}
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 9, "lo')
    baselines = {"raw pixels": 0.2, "random weights": 0.1}
    probes = {"probes": {"linear": {"metric": "top1", "baselines": baselines}}}
    (tmp_path / "online_probes.json").write_text(json.dumps(probes))
    made = job("learning")
    learning.curves(made, tmp_path, 64)
    loss, online = made.record.content["curves"]
    assert loss["lines"]["loss"][0][0] >= 64
    assert online["lines"] == {"linear.top1": [(256, 0.25), (512, 0.5)]}
    assert online["levels"] == {"linear.top1, raw pixels": 0.2, "linear.top1, random weights": 0.1}
