"""`sslkit ablate` as a user runs it: in its own processes, which are killed and started again."""

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

OTHER = '[objectives.scene-instance]\ninputs = { instance = "scene" }\n'
PROBE = "[probes.knn]\nk = 3\nsize = 32\nmin_side = 8\ntest_share = 0.5\n"
ON_CPU = ("--workers", "0", "--accelerator", "cpu")
BASE = ("ablate", "two.toml", "--drop", "scene-instance", *ON_CPU)


@pytest.fixture(autouse=True)
def _few_plugins(monkeypatch):
    """Load only the plugins that the recipe needs, because every run is a separate process."""
    monkeypatch.setenv("SSLKIT_PLUGINS", "heads,images,logs,probes,torchvision,univip")


@pytest.fixture
def recipe(small_recipe):
    return small_recipe.replace("steps = 2", "steps = 4").replace("[[augment", f"{OTHER}[[augment") + PROBE


@pytest.fixture
def here(tmp_path, recipe):
    (tmp_path / "two.toml").write_text(recipe)
    return tmp_path


def sslkit(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sslkit", *arguments]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def command(here, monkeypatch, capsys):
    """Run a command in this process: one that trains nothing is not worth importing torch again."""
    monkeypatch.chdir(here)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


def figures(out: str) -> list[list[dict[str, float]]]:
    return [[trial["metrics"] for trial in arm["trials"]] for arm in json.loads(out)["arms"]]


def last_metrics(run: Path) -> dict[str, float]:
    """Return the metrics of a run's last step that measure no time, and its probes' scores."""
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    timed = ("images_per_s", "waiting", "_ms")
    scores = json.loads((run / "probes.json").read_text())["trained"]
    return {name: value for name, value in row.items() if not name.endswith(timed)} | scores


@pytest.mark.slow
def test_killed_and_started_again_it_ends_in_the_same_figures_and_a_table(here, command):
    more = ("--set", "steps=24", "--save-every", "2")
    started = [sys.executable, "-m", "sslkit", *BASE, *more]
    with subprocess.Popen(started, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        checkpoints = here / "runs" / "two" / "full-s0" / "checkpoints"
        until(lambda: checkpoints.is_dir() and any(checkpoints.glob("step-*.pt")))
        for process in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
            process.send_signal(signal.SIGKILL)
        told = first.communicate()[1].decode()
    assert "full, seed 0 (1 of 2): starts in runs/two/full-s0" in told
    second = sslkit(here, *BASE, *more)
    assert second.returncode == 0, second.stderr
    assert "drop-scene-instance" in second.stdout
    assert "full, seed 0 (1 of 2): resumes in" in second.stderr
    [folder] = (here / "runs" / "two").glob("ablation-*")
    names = {path.name for path in folder.iterdir()}
    assert names == {"table.md", "table.tex", "table.csv", "results.json", "figure.png", "figure.svg", "report.html"}
    page = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']https?://""", page)
    again = command(*BASE, *more, "--json")
    assert again.returncode == 0
    assert "starts in" not in again.stderr, "finished runs are reused"
    stored = json.loads((folder / "results.json").read_text())
    assert figures(again.stdout) == [[trial["metrics"] for trial in arm["trials"]] for arm in stored["arms"]]
    runs = {path.name for path in (here / "runs" / "two").iterdir() if not path.name.startswith("ablation")}
    assert runs == {"full-s0", "drop-scene-instance-s0"}
    whole = command("run", "two.toml", "--arm", "whole", *ON_CPU, "--set", "steps=24")
    assert whole.returncode == 0, whole.stderr
    killed, never = (last_metrics(here / "runs" / "two" / f"{arm}-s0") for arm in ("full", "whole"))
    assert killed == never


@pytest.mark.slow
def test_a_signal_leaves_everything_resumable_and_the_message_says_how(here):
    command = [sys.executable, "-m", "sslkit", *BASE, "--set", "steps=2000"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        until(lambda: (here / "runs" / "two" / "full-s0" / "metrics.jsonl").exists())
        os.kill(started.pid, signal.SIGINT)
        out, err = started.communicate(timeout=120)
    assert started.returncode == 75, err
    assert "2 of 2 runs are not finished; the same command continues" in err
    assert "Traceback" not in err
    assert json.loads((here / "runs" / "two" / "full-s0" / "status.json").read_text())["state"] == "stopped"
    assert "full, seed 0: stopped" in out
    assert "drop-scene-instance: not started" in out


@pytest.mark.slow
def test_a_failed_arm_is_shown_with_its_reason_and_the_others_continue(here):
    """Train two runs at a time; the second of the three has a learning rate that makes it diverge."""
    done = sslkit(
        here, "ablate", "two.toml", "--vary", "optimizer.base_lr=1e30,0.2", "--jobs", "2", "--workers", "0",
        "--accelerator", "cpu", "--set", "steps=6",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "1 of 3 runs failed" in done.stderr
    assert re.search(r"optimizer.base_lr=1e\+?30.*failed: step \d is not finite", done.stderr)
    states = {
        path.parent.name: json.loads(path.read_text())["state"]
        for path in (here / "runs" / "two").glob("*/status.json")
    }
    assert sorted(states.values()) == ["failed", "finished", "finished"]
    assert (here / "runs" / "two" / "optimizer.base_lr=0.2-s0" / "log.txt").stat().st_size > 0


def test_a_plan_and_a_script_train_nothing(here, command):
    plan = command(*BASE, "--plan", "--json")
    assert plan.returncode == 0, plan.stderr
    full, arm = json.loads(plan.stdout)
    assert (full["arm"], arm["arm"], arm["objectives"]) == ("full", "drop-scene-instance", ["scene-scene"])
    assert not (here / "runs").exists()
    script = command(*BASE, "--seeds", "2", "--emit", "sh")
    lines = [line for line in script.stdout.splitlines() if not line.startswith("#")]
    assert lines == [
        f"sslkit run runs/two/{name} --accelerator cpu --workers 0"
        for name in ("full-s0", "drop-scene-instance-s0", "full-s1", "drop-scene-instance-s1")
    ]
    assert not list((here / "runs").rglob("checkpoints"))
    script = command(*BASE, "--probe-every", "5", "--emit", "sh")
    assert "sslkit run runs/two/full-s0 --accelerator cpu --workers 0 --probe-every 5" in script.stdout


def test_unknown_names_are_usage_errors(command):
    done = command("ablate", "two.toml", "--drop", "scene-instanc")
    assert done.returncode == 2
    assert "did you mean 'scene-instance'?" in done.stderr
    assert command(*BASE, "--plan", "--collect").returncode == 2


def until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened for two minutes")
