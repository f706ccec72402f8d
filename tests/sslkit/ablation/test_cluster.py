"""SLURM's part, rehearsed on submitit's local cluster: the same jobs, pickled and run in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from sslkit.ablation.cluster import Slurm, Train
from sslkit.errors import UsageError


@pytest.fixture(autouse=True)
def _few_plugins(monkeypatch):
    """Import only what the recipe needs: every job is a process of its own."""
    monkeypatch.setenv("SSLKIT_PLUGINS", "heads,images,logs,torchvision,univip")


ON_CPU = ("--accelerator", "cpu", "--workers", "0")


def test_a_job_array_trains_what_is_not_finished(tmp_path, small_recipe):
    (tmp_path / "one.toml").write_text(small_recipe)
    command = [
        sys.executable, "-m", "sslkit", "ablate", "one.toml", "--vary", "target.momentum=0.9", "--launcher", "slurm",
        "--slurm", "cluster=local", "--slurm", "timeout_min=5", *ON_CPU,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("full-s0", "target.momentum=0.9-s0"):
        folder = tmp_path / "runs" / "one" / name
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
        job = json.loads((folder / "job.json").read_text())
        assert f"seed 0: job {job['job']}" in done.stderr


def test_a_job_that_is_preempted_stops_behind_its_step_and_asks_to_be_queued_again(tmp_path, small_recipe):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "one.toml").write_text(small_recipe.replace("steps = 2", "steps = 3000"))
    resolve = [sys.executable, "-m", "sslkit", "resolve", str(tmp_path / "one.toml")]
    (folder / "recipe.toml").write_text(subprocess.run(resolve, capture_output=True, text=True, check=True).stdout)
    train = Train(ON_CPU)
    with (folder / "log.txt").open("ab") as log:
        args = [sys.executable, "-m", "sslkit", "run", str(folder), *ON_CPU]
        train.child = subprocess.Popen(args, stdout=log, stderr=log)
        while not (folder / "metrics.jsonl").exists():
            assert train.child.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.1)
        again = train.checkpoint(str(folder))
    assert train.child.returncode == 75
    assert again.function.options == list(ON_CPU)
    assert again.args == (str(folder),)
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"


def test_parameters_that_submitit_does_not_know_are_a_fault_of_usage(tmp_path):
    launcher = Slurm(tmp_path, (), {"partitions": "gpu"}, print, cluster="local")
    with pytest.raises(UsageError, match="submitit: .*partitions"):
        launcher.executor()


def test_without_slurm_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="submitit: "):
        Slurm(tmp_path, (), {}, print).executor()
