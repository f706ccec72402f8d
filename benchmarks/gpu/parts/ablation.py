"""An ablation of two arms, by the command: UniVIP with and without its instance-instance objective."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gpu.checkout import ROOT
from gpu.process import tail
from gpu.recipe import FILE
from gpu.record import Job, PartFailedError

DROP = "instance-instance"
STEPS = 150
STEPS_ON_CPU = 5
ON_CPU = ("batch_size=16", "source.images=200", 'precision="32-true"', "probes={knn={k=10,size=32,limit=200}}")


def run(job: Job) -> None:
    """Train both arms, and show their runs.

    Raises:
        PartFailedError: The command failed; the message is what it printed.
    """
    folders = ["--runs", str(job.work / "runs"), "--out", str(job.work / "table")]
    arguments = ["ablate", str(FILE.relative_to(ROOT)), "--drop", DROP, *changes(), *folders, "--json"]
    command = [sys.executable, "-m", "sslkit", *arguments]
    results = json.loads(output(command))
    rows = [row(arm) for arm in results["arms"]]
    columns = list(dict.fromkeys(name for cells in rows for name in cells))
    job.record.table("arms", [{name: cells.get(name, "") for name in columns} for cells in rows])
    job.record.put(command=shlex.join(["sslkit", *arguments]), results=results)
    states = [cells["state"] for cells in rows]
    job.record.check("runs", ", ".join(states), "two finished ones", states == ["finished", "finished"])


def output(command: Sequence[str]) -> str:
    """Run a command, whose messages are also this process's; return what it prints.

    Raises:
        PartFailedError: It ended with another code than 0.
    """
    with (
        tempfile.TemporaryFile("w+") as stdout,
        subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process,
    ):
        assert process.stderr
        messages = []
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            messages.append(line)
        if code := process.wait():
            raise PartFailedError(f"sslkit ablate ended with code {code}\n{tail(''.join(messages))}")
        stdout.seek(0)
        return stdout.read()


def changes() -> list[str]:
    """Return the options that make the arms short."""
    sets = [f"steps={STEPS}"] if torch.cuda.is_available() else [f"steps={STEPS_ON_CPU}", *ON_CPU]
    return [part for text in (*sets, "optimizer.warmup_epochs=0") for part in ("--set", text)]


def row(arm: Mapping[str, Any]) -> dict[str, object]:
    """Return the state and the scores of an arm's only run."""
    trial = arm["trials"][0]
    reason = f": {trial['reason']}" if trial["reason"] else ""
    scores = {name: value for name, value in trial["metrics"].items() if name.endswith(("top1", "map"))}
    return {"arm": arm["name"], "state": f"{trial['state']}{reason}", **scores, "images/s": trial["images_per_s"]}
