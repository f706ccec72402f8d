"""SLURM's part, rehearsed on submitit's local cluster: the same jobs, pickled and run in their own processes."""

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

from sslkit.__main__ import main
from sslkit.ablation.cluster import Slurm, submit_parameters
from sslkit.errors import UsageError
from sslkit.training.options import RunOptions


@pytest.fixture(autouse=True)
def _few_plugins(monkeypatch):
    """Import only what the recipe needs, as every job is a separate process."""
    monkeypatch.setenv("SSLKIT_PLUGINS", "heads,images,logs,torchvision,univip")


ON_CPU = ("--accelerator", "cpu", "--workers", "0")


@pytest.mark.slow
def test_a_job_array_trains_unfinished_runs(tmp_path, small_recipe):
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
    """Wait until a run has taken its first steps."""
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text()


@pytest.mark.slow
def test_a_preempted_run_is_requeued_and_resumes(tmp_path, small_recipe):
    """The signal reaches the job while it waits for the run, as under SLURM."""
    (tmp_path / "one.toml").write_text(small_recipe.replace("steps = 2", "steps = 200"))
    command = [
        sys.executable, "-m", "sslkit", "run", "one.toml", "--launcher", "slurm",
        "--slurm", "cluster=local", "--slurm", "timeout_min=5", *ON_CPU,
    ]  # fmt: skip
    folder = tmp_path / "runs" / "one" / "full-s0"
    with (tmp_path / "stderr").open("wb") as stderr, subprocess.Popen(command, cwd=tmp_path, stderr=stderr) as process:
        wait_for_steps(folder, process)
        [task] = psutil.Process(int(json.loads((folder / "job.json").read_text())["job"])).children()
        task.send_signal(signal.SIGUSR2)
        assert process.wait(timeout=200) == 0, log_of(folder)
    [stopped] = re.findall(r"stopped by SIGINT after step (\d+) of 200", log_of(folder))
    assert f"after step {stopped} of 200\n" in log_of(folder).partition("resumed from")[2]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 201))
    assert (tmp_path / "stderr").read_text().endswith("full, seed 0: finished\n")


@pytest.mark.slow
def test_a_terminated_job_saves_and_does_not_end_by_itself(tmp_path, small_recipe, capsys):
    """SLURM does not requeue a job that ends by itself."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "one.toml").write_text(small_recipe.replace("steps = 2", "steps = 3000"))
    assert main(["resolve", str(tmp_path / "one.toml")]) == 0
    (folder / "recipe.toml").write_text(capsys.readouterr().out)
    job = f"from sslkit.ablation.cluster import TrainJob; TrainJob({ON_CPU!r})({str(folder)!r})"
    with subprocess.Popen([sys.executable, "-c", job], process_group=0) as process:
        wait_for_steps(folder, process)
        os.killpg(process.pid, signal.SIGTERM)  # as on some clusters, the run gets the signal, too
        while "stopped by SIGINT after step" not in log_of(folder):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1.0)
        assert process.poll() is None
        process.kill()
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"


@pytest.mark.slow
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
    ("settings", "options", "parameters", "cluster"),
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
def test_run_options_imply_parameters_and_settings_override_them(settings, options, parameters, cluster):
    assert submit_parameters(settings, options) == (parameters, cluster)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "needs the time limit of a job: write --slurm timeout_min=MINUTES"),
        (["timeout_min"], "--slurm timeout_min: write KEY=VALUE"),
    ],
)
def test_invalid_settings_are_reported(settings, message):
    with pytest.raises(UsageError, match=message):
        submit_parameters(settings, RunOptions())


def test_jobs_may_use_many_time_limits_and_end_with_all_their_processes(tmp_path, monkeypatch):
    """Checked in the batch script that submitit would submit."""
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


def test_unknown_parameters_are_a_usage_error(tmp_path):
    launcher = Slurm(tmp_path, (), {"partitions": "gpu"}, print, cluster="local")
    with pytest.raises(UsageError, match="submitit: .*partitions"):
        launcher.executor()


def test_without_slurm_there_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="submitit: "):
        Slurm(tmp_path, (), {}, print).executor()
