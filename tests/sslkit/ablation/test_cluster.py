"""SLURM's part, rehearsed on submitit's local cluster: the same jobs, pickled and run in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sslkit.ablation.cluster import Slurm, asked
from sslkit.errors import UsageError
from sslkit.training.options import RunOptions


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


def wait_for_steps(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has made its first steps."""
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)


def said(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_a_run_that_is_preempted_is_queued_again_and_goes_on(tmp_path, small_recipe):
    """The signal reaches the job amidst its waiting, as it does under SLURM."""
    (tmp_path / "one.toml").write_text(small_recipe.replace("steps = 2", "steps = 200"))
    command = [
        sys.executable, "-m", "sslkit", "run", "one.toml", "--launcher", "slurm",
        "--slurm", "cluster=local", "--slurm", "timeout_min=5", *ON_CPU,
    ]  # fmt: skip
    folder = tmp_path / "runs" / "one" / "full-s0"
    with (tmp_path / "told").open("wb") as told, subprocess.Popen(command, cwd=tmp_path, stderr=told) as process:
        wait_for_steps(folder, process)
        [task] = psutil.Process(int(json.loads((folder / "job.json").read_text())["job"])).children()
        task.send_signal(signal.SIGUSR2)
        assert process.wait(timeout=200) == 0, said(folder)
    [stopped] = re.findall(r"stopped by SIGINT after step (\d+) of 200", said(folder))
    assert f"after step {stopped} of 200\n" in said(folder).partition("resumed from")[2]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 201))
    assert (tmp_path / "told").read_text().endswith("full, seed 0: finished\n")


def test_a_job_that_has_to_go_saves_and_waits_for_what_becomes_of_it(tmp_path, small_recipe):
    """One that ended by itself would not be queued again by SLURM."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "one.toml").write_text(small_recipe.replace("steps = 2", "steps = 3000"))
    resolve = [sys.executable, "-m", "sslkit", "resolve", str(tmp_path / "one.toml")]
    (folder / "recipe.toml").write_text(subprocess.run(resolve, capture_output=True, text=True, check=True).stdout)
    job = f"from sslkit.ablation.cluster import Train; Train({ON_CPU!r})({str(folder)!r})"
    with subprocess.Popen([sys.executable, "-c", job], process_group=0) as process:
        wait_for_steps(folder, process)
        os.killpg(process.pid, signal.SIGTERM)  # as some clusters do, the run hears it, too
        while "stopped by SIGINT after step" not in said(folder):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1.0)
        assert process.poll() is None
        process.kill()
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"


def test_a_run_that_fails_as_a_job_ends_with_its_code_and_reason(tmp_path, small_recipe):
    (tmp_path / "one.toml").write_text(small_recipe)
    command = [
        sys.executable, "-m", "sslkit", "run", "one.toml", "--set", "optimizer.base_lr=1e30", "--set",
        "optimizer.warmup_epochs=0", "--set", "steps=50", "--launcher", "slurm", "--slurm", "cluster=local",
        "--slurm", "timeout_min=5", *ON_CPU,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 6, done.stderr
    assert "error: the job failed: step " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("written", "hardware", "parameters", "cluster"),
    [
        (["timeout_min=9"], RunOptions(), {"timeout_min": 9}, "slurm"),
        (
            ["timeout_min=9", "slurm_partition=gpu"],
            RunOptions(devices="8", nodes=2),
            {"nodes": 2, "tasks_per_node": 8, "gpus_per_node": 8, "timeout_min": 9, "slurm_partition": "gpu"},
            "slurm",
        ),
        (
            ["timeout_min=9", "cluster=local"],
            RunOptions(accelerator="cpu", devices="2"),
            {"tasks_per_node": 2, "timeout_min": 9},
            "local",
        ),
        (
            ["timeout_min=9", "gpus_per_node=4"],
            RunOptions(devices="2"),
            {"tasks_per_node": 2, "gpus_per_node": 4, "timeout_min": 9},
            "slurm",
        ),
    ],
)
def test_hardware_says_what_is_asked_of_slurm_and_options_go_over_it(written, hardware, parameters, cluster):
    assert asked(written, hardware) == (parameters, cluster)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ([], "needs the time limit of a job: write --slurm timeout_min=MINUTES"),
        (["timeout_min"], "--slurm timeout_min: write KEY=VALUE"),
    ],
)
def test_what_is_missing_for_slurm_is_said(written, says):
    with pytest.raises(UsageError, match=says):
        asked(written, RunOptions())


def test_jobs_may_take_many_time_limits_and_end_with_all_their_processes(tmp_path, monkeypatch):
    """Seen in the batch script that submitit would submit."""
    srun = tmp_path / "srun"
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    parameters = {"timeout_min": 9, "nodes": 2, "tasks_per_node": 8, "gpus_per_node": 8}
    executor = Slurm(tmp_path, (), parameters, print).executor()._executor
    assert executor.max_num_timeout == 1000
    script = executor._make_submission_file_text("train", "1")
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=9", "--signal=USR2@90"):
        assert f"#SBATCH {line}\n" in script
    assert "--kill-on-bad-exit=1" in script


def test_parameters_that_submitit_does_not_know_are_a_fault_of_usage(tmp_path):
    launcher = Slurm(tmp_path, (), {"partitions": "gpu"}, print, cluster="local")
    with pytest.raises(UsageError, match="submitit: .*partitions"):
        launcher.executor()


def test_without_slurm_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="submitit: "):
        Slurm(tmp_path, (), {}, print).executor()
