"""The command of the GPU rehearsal, with a few parts on the CPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def test_the_command_runs_parts_and_writes_json_and_page(tmp_path):
    command = [
        sys.executable,
        "-m",
        "gpu",
        "--minutes",
        "4",
        "--parts",
        "tests,bf16,cuda-graph",
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    page = (tmp_path / "out" / "page.md").read_text()
    assert done.returncode == 0, done.stderr + page
    content = json.loads((tmp_path / "out" / "rehearsal.json").read_text())
    assert content["state"] == "finished"
    assert {"commit", "date", "machine", "versions", "torch_build", "card", "nvidia_smi"} <= set(content["conditions"])
    assert list(content["parts"]) == ["tests", "bf16", "cuda-graph"]
    assert content["parts"]["bf16"]["status"] == "passed"
    assert all(check["ok"] for check in content["parts"]["bf16"]["checks"])
    if not torch.cuda.is_available():
        assert content["parts"]["cuda-graph"]["error"] == "it needs a GPU"
    assert "| bf16 | passed |" in page
    assert "==== bf16" in (tmp_path / "out" / "log.txt").read_text()


def test_a_rehearsal_that_is_stopped_ends_its_part_and_leaves_its_page(tmp_path):
    command = [sys.executable, "-m", "gpu", "--minutes", "4", "--parts", "float32,step", "--out", tmp_path]
    process = subprocess.Popen(command, cwd=BENCHMARKS, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    children: list[int] = []
    while time.monotonic() < deadline and not children:  # a part is recorded before its process starts
        time.sleep(0.1)
        children = parts_of(process.pid) if running(tmp_path) else []
    assert len(children) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 1
    content = json.loads((tmp_path / "rehearsal.json").read_text())
    assert content["state"] == "interrupted"
    assert content["parts"]["float32"]["status"] == "running"
    assert "It was interrupted." in (tmp_path / "page.md").read_text()
    assert not parts_of(process.pid)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def running(out):
    file = out / "rehearsal.json"
    return file.exists() and "float32" in json.loads(file.read_text())["parts"]


def parts_of(parent):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [int(stat.parent.name)] * (int(fields[1]) == parent)
    return found
