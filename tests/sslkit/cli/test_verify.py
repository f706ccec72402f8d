"""`sslkit verify` on runs that went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sslkit.__main__ import main


@pytest.fixture
def record(tmp_path, monkeypatch, small_recipe, capsys):
    """A run that diverged: its learning rate is absurd."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    sets = ["steps=60", "optimizer.base_lr=1e30", "optimizer.warmup_epochs=0"]
    more = [part for item in sets for part in ("--set", item)]
    assert main(["run", "small.toml", "--workers", "0", *more]) == 6
    assert "sslkit verify replay" in capsys.readouterr().err
    [folder] = (tmp_path / "runs").rglob("diverged-*")
    return folder


def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path, monkeypatch, capsys, small_recipe):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    arguments = ["verify", "resume", "small.toml", "--set", "steps=60", "--save-every", "2"]
    assert main([*arguments, "--kills", "3", "--workers", "1", "--out", "both", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differs"] == []
    assert len(told["kills"]) >= 2
    assert {"online", "target", "optimizer", "backbone.safetensors"} <= told["whole"].keys()
    assert main([*arguments, "--out", "both"]) == 2
    assert "both is not empty" in capsys.readouterr().err


def test_a_recipe_that_fails_by_itself_is_told_with_its_words(tmp_path, monkeypatch, capsys, small_recipe):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    sets = ["--set", "steps=60", "--set", "optimizer.base_lr=1e30"]
    assert main(["verify", "resume", "small.toml", *sets, "--kills", "1"]) == 1
    told = capsys.readouterr().err
    assert "the run 'whole' ended with code 6" in told
    assert "is not finite" in told


def test_a_diverged_step_is_done_again(record, capsys):
    assert main(["verify", "replay", str(record)]) == 0
    told = capsys.readouterr().out
    assert "first non-finite output: " in told
    assert "the same as in the record, bit for bit" in told
    assert main(["verify", "replay", str(record), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["then"] == found["now"]
    assert found["differs"] == []


def test_what_differs_ends_with_one(record, capsys):
    told = json.loads((record / "record.json").read_text())
    told["terms"]["grad_norm"] = "1.0"
    (record / "record.json").write_text(json.dumps(told))
    assert main(["verify", "replay", str(record)]) == 1
    assert "1 of " in (said := capsys.readouterr().out)
    assert "differ from the record" in said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["verify", "replay", "nowhere"], 5, "nowhere is no flight record"),
        (["verify", "replay", "RUN"], 5, "is no flight record: it has no record.json"),
    ],
)
def test_what_is_no_record_is_told(record, capsys, arguments, code, says):
    arguments = [str(record.parent) if word == "RUN" else word for word in arguments]
    assert main(arguments) == code
    assert says in (told := capsys.readouterr().err)
    assert "Traceback" not in told


FOREIGN = """
from typing import ClassVar
import torch
from sslkit import hookimpl
from sslkit.api import Objective, Terms


class Contrast(Objective):
    "Keeps images apart, and forgets to say that it couples them."

    name = "contrast"
    requires: ClassVar = {"z": "online.projection.scene: b v d"}

    def __init__(self, dims) -> None:
        super().__init__()

    def forward(self, z):
        mean = z.mean(1)
        return (mean @ mean.T).square().mean()


class Ring(Objective):
    "Keeps the newest rows of its own process."

    name = "ring"
    requires: ClassVar = {"z": "online.projection.scene: b v d"}

    def __init__(self, dims) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(dims["d"]))

    def forward(self, z):
        self.rows = self.rows * 0.5 + z.detach().mean((0, 1))
        return z.square().mean()


@hookimpl
def sslkit_objectives():
    return [Contrast, Ring]
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Install a plugin with faulty objectives for processes that are started here."""
    info = tmp_path / "site" / "sslkit_faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sslkit-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sslkit]\nfaulty = faulty_objectives\n")
    (tmp_path / "site" / "faulty_objectives.py").write_text(FOREIGN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)


def world_size(text, *more):
    """Run the command in a process that sees the foreign plugin."""
    Path("small.toml").write_text(text)
    command = [sys.executable, "-m", "sslkit", "verify", "world-size", "small.toml", "--accelerator", "cpu", "--json"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


WITHOUT_BATCH_NORM = {
    'use = "resnet18"\nwidth = 8': 'use = "timm"\nmodel = "test_vit"\nimage_size = 32',
    "hidden = 16": 'norm = "layer", hidden = 16',
}


def with_layer_norm(text):
    for old, new in WITHOUT_BATCH_NORM.items():
        text = text.replace(old, new)
    return text


def test_batch_norm_breaks_equality_and_a_queue_of_own_rows_behind_it(foreign, small_recipe):
    text = small_recipe.replace("[objectives.scene-scene]", "[objectives.ring]\n[objectives.scene-scene]")
    code, [found] = world_size(text, "--steps", "1")
    assert code == 1
    assert [words.partition(":")[0].partition(",")[0] for words in found["breaking"]] == [
        "batch norm statistics",
        "a queue",
    ]
    assert found["first"]["name"] == "online.backbone.bn1 (BatchNorm2d), call 1"
    assert found["whole_batch_norm"]["first"]["name"] == "objectives.ring.rows"


def test_an_objective_that_sees_the_rows_of_its_process_only_breaks_equality(foreign, small_recipe):
    text = with_layer_norm(small_recipe).replace("[objectives.scene-scene]", "[objectives.contrast]")
    code, [found] = world_size(text, "--steps", "1")
    assert code == 1
    assert found["first"]["name"] == "contrast.loss"
    assert found["breaking"][0].startswith("gather: the objective sees the rows of its own process only")


def test_contrasts_and_a_queue_of_keys_are_the_same_on_one_and_three_processes(tmp_path, monkeypatch, small_recipe):
    monkeypatch.chdir(tmp_path)
    text = with_layer_norm(small_recipe).replace(
        "[objectives.scene-scene]", "[objectives.simclr]\n[objectives.moco]\nqueue = 16"
    )
    code, found = world_size(text.replace("batch_size = 4", "batch_size = 12"), "--sizes", "1,3", "--steps", "2")
    assert code == 0
    assert [item["sizes"] for item in found] == [[1, 3]]
    assert all(item["breaking"] == [] and 0 < max(item["largest"].values()) < 1e-6 for item in found)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sizes", "2"], "--sizes 2: write two or more numbers of processes, as in --sizes 1,2"),
        (["--sizes", "1,zwei"], "--sizes 1,zwei: write two or more"),
        (["--sizes", "1,3"], "batch_size = 4 over 3 processes"),
    ],
)
def test_numbers_of_processes_that_cannot_be_are_told(tmp_path, monkeypatch, capsys, small_recipe, more, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    assert main(["verify", "world-size", "small.toml", *more]) == 2
    assert words in capsys.readouterr().err
