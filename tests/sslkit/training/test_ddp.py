"""Two processes over gloo, as a user starts them: they agree with one process that accumulates two passes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from sslkit.__main__ import main
from sslkit.data.epochs import Epochs
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.plugins import Plugins
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions

RECIPE = """
steps = 3
batch_size = 8
precision = "32-true"
[source]
use = "sample-scenes"
images = 16
side = 96
[sampler]
use = "two-views"
[backbone]
use = "timm"                      # no batch norm: its statistics would differ by design on the CPU
model = "test_vit"
image_size = 32
[heads.main]
projector = { use = "mlp", hidden = 16, out = 8, norm = "layer" }
predictor = { use = "mlp", hidden = 16, norm = "layer" }
[heads.other]
projector = { use = "mlp", hidden = 16, out = 8, norm = "layer" }
predictor = { use = "mlp", hidden = 16, norm = "layer" }
[objectives.scene-scene]
[objectives.again]
use = "scene-scene"
head = "other"
[[augment.scene]]
size = 32
[optimizer]
use = "sgd"
base_lr = 0.5
"""
PROBES = """
[probes.knn]
k = 1
size = 32
[probes.linear]
size = 32
epochs = 2
"""
ON_CPU = ["--accelerator", "cpu", "--workers", "0"]
TWO = ["--devices", "2", "--strategy", "ddp"]


@pytest.fixture(scope="module")
def folders(once: Callable[[str, Callable[[Path], None]], Path]) -> tuple[Path, Path]:
    """Train the same three steps twice: over two processes, and in one with two passes a step."""
    here = once("ddp", train)
    return here / "runs" / "two" / "ranks-s0", here / "runs" / "two" / "passes-s0"


def train(here: Path) -> None:
    (here / "two.toml").write_text(RECIPE + PROBES)
    over_ranks(here, "ranks", *TWO)
    over_ranks(here, "probed", *TWO, "--probe-every", "1")
    in_this_process(here, "passes", "--set", "accumulate=2")


def over_ranks(here: Path, arm: str, *more: str) -> None:
    """Train as a user does, in processes that the command starts."""
    command = [sys.executable, "-m", "sslkit", "run", "two.toml", "--arm", arm, *ON_CPU, *more]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def in_this_process(here: Path, arm: str, *more: str) -> None:
    with contextlib.chdir(here):
        assert main(["run", "two.toml", "--arm", arm, *ON_CPU, *more]) == 0


@pytest.mark.slow
def test_two_processes_train_what_one_does(folders: tuple[Path, Path]) -> None:
    """Up to the order in which gradients are added: 1e-6 on weights that moved by a hundred thousand times as much."""
    ranks, passes = (checkpoint.load(checkpoint.latest(folder / "checkpoints")) for folder in folders)  # type: ignore[arg-type]
    assert ranks["step"] == passes["step"] == 3
    assert ranks["model"].keys() == passes["model"].keys()
    for name, value in ranks["model"].items():
        torch.testing.assert_close(value, passes["model"][name], atol=1e-6, rtol=0, msg=name)


def test_metrics_are_written_once_and_averaged_over_processes(folders: tuple[Path, Path]) -> None:
    ranks, passes = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders
    )
    assert [row["step"] for row in ranks] == [1, 2, 3]
    assert [row["loss"] for row in ranks] == pytest.approx([row["loss"] for row in passes], abs=1e-5)
    assert [row["feature_std"] for row in ranks] == pytest.approx([row["feature_std"] for row in passes], abs=1e-4)


def test_the_conflict_map_is_that_of_the_batch_over_all_processes(
    folders: tuple[Path, Path], installed: Plugins, tmp_path: Path
) -> None:
    """As in one process with the whole batch: vectors are averaged before they are compared."""
    text = recipe_file.parse(RECIPE, "two", "two.toml")
    made, _ = recipe_file.check_structure(text)
    assert made
    plan, _ = make_plan(made, installed)
    assert plan
    result = trainer.train(
        plan, text, installed, RunFolder(tmp_path / "one"), RunOptions(accelerator="cpu", workers=0, stop_after=1)
    )
    one, ranks = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (result.folder, folders[0])
    )
    names = ["conflict.scene-scene.again", "scene-scene.gradient_norm", "again.gradient_norm"]
    assert [ranks[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-3)
    assert 0 < abs(one[names[0]]) < 1
    assert (ranks["rankme.features_n"], one["rankme.features_n"]) == (4, 8)


def test_the_folder_says_how_many_processes_there_were(folders: tuple[Path, Path]) -> None:
    counts = [json.loads((folder / "environment.json").read_text())[0]["machine"]["processes"] for folder in folders]
    assert counts == [2, 1]


def test_online_probes_change_no_bit(folders: tuple[Path, Path]) -> None:
    plain, probed = folders[0], folders[0].with_name("probed-s0")
    ends = [checkpoint.load(checkpoint.latest(folder / "checkpoints")) for folder in (plain, probed)]  # type: ignore[arg-type]
    for name, value in ends[0]["model"].items():
        assert torch.equal(ends[1]["model"][name], value), name
    rows = [json.loads(line) for line in (probed / "metrics.jsonl").read_text().splitlines()]
    scores = json.loads((probed / "probes.json").read_text())["trained"]
    for name in ("knn", "linear"):
        assert [row["step"] for row in rows if f"probe.{name}.top1" in row] == [1, 2, 3]
        assert rows[-1][f"probe.{name}.top1"] == scores[name]["top1"]


@pytest.mark.slow
def test_a_loss_that_couples_the_batch_trains_over_two_processes_what_it_does_in_one(tmp_path: Path) -> None:
    """Contrasts, and a queue of keys: each process is handed the whole batch, and gradients are those of one process."""
    more = "[objectives.simclr]\n[objectives.moco]\nqueue = 16\n[[augment.scene]]"
    (tmp_path / "two.toml").write_text(RECIPE.replace("[[augment.scene]]", more))
    over_ranks(tmp_path, "ranks", *TWO)
    in_this_process(tmp_path, "one")
    states = []
    for arm in ("ranks", "one"):
        folder = tmp_path / "runs" / "two" / f"{arm}-s0" / "checkpoints"
        states.append(checkpoint.load(checkpoint.latest(folder))["model"])  # type: ignore[arg-type]
    assert states[0].keys() == states[1].keys()
    assert any("queue" in name or "bank" in name for name in states[0]), list(states[0])[-5:]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-5, rtol=0, msg=name)


def photos(folder: Path, count: int) -> list[Path]:
    """Write pictures of noise."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    files = [folder / "photos" / f"{number:02d}.jpg" for number in range(count)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(file)
    return files


def of_photos(*lines: str) -> str:
    """Return the recipe over them."""
    source = "\n".join([*lines, '[source]\nuse = "folder"\nroot = "photos"\n[sampler]'])
    return re.sub(r"\[source\].*?\[sampler\]", source, RECIPE.replace("steps = 3\n", ""), flags=re.DOTALL)


@pytest.mark.slow
def test_what_one_process_could_not_read_all_know_and_one_writes_down(tmp_path: Path) -> None:
    """And the images that stand in are those that one process takes."""
    for file in photos(tmp_path, 16)[3:10:6]:
        file.write_bytes(file.read_bytes()[:300])
    (tmp_path / "two.toml").write_text(of_photos("max_bad_share = 0.5", "steps = 2"))
    over_ranks(tmp_path, "ranks", *TWO, "--workers", "1")
    in_this_process(tmp_path, "passes", "--set", "accumulate=2", "--workers", "1")
    states, listed = [], []
    for arm in ("ranks", "passes"):
        folder = tmp_path / "runs" / "two" / f"{arm}-s0"
        listed.append(json.loads((folder / "bad_images.json").read_text()))
        states.append(checkpoint.load(checkpoint.latest(folder / "checkpoints")))  # type: ignore[arg-type]
    assert [row["key"] for row in listed[0]] == ["03.jpg", "09.jpg"]
    assert listed[0] == listed[1]
    assert states[0]["bad_images"] == states[1]["bad_images"]
    for name, value in states[0]["model"].items():
        torch.testing.assert_close(value, states[1]["model"][name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
def test_a_process_that_fails_takes_the_others_down_with_its_own_words_first(tmp_path: Path) -> None:
    """The third of three meets a damaged image in step 2; the same command goes on once that is repaired."""
    third = Epochs(images=24, batch_size=6, accumulate=1, seed=0, rank=2, world=3)
    [[item, _]] = third.micro_batches(1, 2)
    file = photos(tmp_path, 24)[item.image]
    good = file.read_bytes()
    file.write_bytes(good[:300])
    (tmp_path / "two.toml").write_text(of_photos("steps = 4", 'on_bad_image = "stop"').replace("size = 8", "size = 6"))
    command = [sys.executable, "-m", "sslkit", "run", "two.toml", *ON_CPU, "--save-every", "1", "--devices", "3"]
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert failed.returncode == 5, failed.stderr
    assert f"({file.name})" in errors[0], failed.stderr
    assert any("rank 2 ended with code 5; the same command resumes" in line for line in errors[1:]), failed.stderr
    assert "Traceback" not in failed.stderr
    status = json.loads((tmp_path / "runs" / "two" / "full-s0" / "status.json").read_text())
    assert status["state"] == "failed"
    file.write_bytes(good)
    in_this_process(tmp_path, "full")


@pytest.mark.slow
def test_a_step_that_diverged_over_two_processes_is_done_again_by_two(tmp_path: Path, capsys: Any) -> None:
    text = RECIPE.replace("steps = 3", "steps = 30").replace("base_lr = 0.5", "base_lr = 1e30")
    (tmp_path / "two.toml").write_text(text)

    def sslkit(*command: str) -> subprocess.CompletedProcess[str]:
        started = [sys.executable, "-m", "sslkit", *command]
        return subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = sslkit("run", "two.toml", *ON_CPU, *TWO)
    assert done.returncode == 6, done.stderr
    [record] = tmp_path.rglob("diverged-*")
    hands = json.loads((record / "record.json").read_text())["in_hand"]
    assert [len(hand[0]["images"]) for hand in hands] == [4, 4]
    again = sslkit("verify", "replay", str(record), *ON_CPU, *TWO)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("the same as in the record, bit for bit") == 1
    assert main(["verify", "replay", str(record)]) == 2
    assert "is from a run on 2 ranks, not 1: write --devices 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_of_them_behind_the_same_step(tmp_path: Path) -> None:
    """Otherwise the others would wait for it forever."""
    (tmp_path / "two.toml").write_text(RECIPE.replace("steps = 3", "steps = 500"))
    command = ["run", "two.toml", *ON_CPU, *TWO]
    folder = tmp_path / "runs" / "two" / "full-s0"
    with subprocess.Popen([sys.executable, "-m", "sslkit", *command], cwd=tmp_path, stderr=subprocess.PIPE) as started:
        try:
            until(lambda: (folder / "metrics.jsonl").exists(), started)
            [other] = [child for child in psutil.Process(started.pid).children() if "two.toml" in child.cmdline()]
            other.send_signal(signal.SIGTERM)
            told = started.communicate(timeout=60)[1].decode()
        finally:
            started.kill()
    assert started.returncode == 75, told
    assert told.count("stopped by SIGTERM after step") == 1  # said by the first process, for all of them
    assert not psutil.wait_procs([other], timeout=30)[1], "it still runs"
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "stopped"
    assert checkpoint.load(checkpoint.latest(folder / "checkpoints"))["step"] == status["step"]  # type: ignore[arg-type]


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if holds():
            return
        assert process.poll() is None, process.returncode
        time.sleep(0.1)
    raise AssertionError("nothing happened for a minute")
