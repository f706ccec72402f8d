"""`sslkit verify` on runs that diverge, are killed, or differ between numbers of ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sslkit.__main__ import main


def test_both_runs_compute_as_one_choice_says(tmp_path, monkeypatch, small_recipe, trials):
    from sslkit.verify import resume

    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    commands = []

    def compare(command, folder, steps, save_every, kills, seed, report):
        commands.append(command)
        return resume.ResumeComparison(steps, {}, {})

    monkeypatch.setattr(resume, "compare", compare)
    longer = ["verify", "resume", "small.toml", "--set", "steps=9"]
    assert main([*longer, "--set", "precision=auto"]) == 0
    assert main(longer) == 0
    auto, written = (" ".join(command) for command in commands)
    assert "--set precision=auto --set auto_precision=32-true --set auto_memory_format=contiguous --stop" in auto
    assert "auto" not in written
    assert len(trials.plans) == 1


@pytest.fixture
def record(tmp_path, monkeypatch, small_recipe, capsys):
    """The flight record of a run that diverged because its learning rate is far too high."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    sets = ["steps=60", "optimizer.base_lr=1e30", "optimizer.warmup_epochs=0"]
    more = [part for item in sets for part in ("--set", item)]
    assert main(["run", "small.toml", "--workers", "0", *more]) == 6
    assert "sslkit verify replay" in capsys.readouterr().err
    [folder] = (tmp_path / "runs").rglob("diverged-*")
    return folder


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_the_same(tmp_path, monkeypatch, capsys, small_recipe):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    arguments = ["verify", "resume", "small.toml", "--set", "steps=60", "--save-every", "2"]
    assert main([*arguments, "--kills", "3", "--workers", "1", "--out", "both", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["differs"] == []
    assert len(report["kills"]) == report["asked"] == report["resumes"] == 3
    assert {"online", "target", "optimizer", "backbone.safetensors"} <= report["whole"].keys()
    assert main([*arguments, "--out", "both"]) == 2
    assert "both is not empty" in capsys.readouterr().err


def test_a_recipe_that_fails_by_itself_is_reported_with_its_error(tmp_path, monkeypatch, capsys, small_recipe):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    sets = ["--set", "steps=60", "--set", "optimizer.base_lr=1e30"]
    assert main(["verify", "resume", "small.toml", *sets, "--kills", "1"]) == 1
    error = capsys.readouterr().err
    assert "the run 'whole' ended with code 6" in error
    assert "is not finite" in error


def test_a_diverged_step_is_replayed(record, capsys):
    assert main(["verify", "replay", str(record)]) == 0
    output = capsys.readouterr().out
    assert "first non-finite output: " in output
    assert "the same as in the record, bit for bit" in output
    assert main(["verify", "replay", str(record), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["then"] == report["now"]
    assert report["differs"] == []


def test_a_difference_ends_with_code_1(record, capsys):
    values = json.loads((record / "record.json").read_text())
    values["terms"]["grad_norm"] = "1.0"
    (record / "record.json").write_text(json.dumps(values))
    assert main(["verify", "replay", str(record)]) == 1
    assert "1 of " in (output := capsys.readouterr().out)
    assert "differ from the record" in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["verify", "replay", "nowhere"], 5, "nowhere is not a flight record"),
        (["verify", "replay", "RUN"], 5, "is not a flight record: record.json is missing"),
    ],
)
def test_a_folder_that_is_not_a_record(record, capsys, arguments, code, message):
    arguments = [str(record.parent) if word == "RUN" else word for word in arguments]
    assert main(arguments) == code
    assert message in (error := capsys.readouterr().err)
    assert "Traceback" not in error


FOREIGN = """
from typing import ClassVar
import torch
from sslkit import hookimpl
from sslkit.api import Objective, Terms


class Contrast(Objective):
    "Push images apart, without declaring that the objective couples them."

    name = "contrast"
    requires: ClassVar = {"z": "online.projection.scene: b v d"}

    def __init__(self, dims) -> None:
        super().__init__()

    def forward(self, z):
        mean = z.mean(1)
        return (mean @ mean.T).square().mean()


class Ring(Objective):
    "Keep a running mean of the rows of this rank only."

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
    """Install a plugin with faulty objectives, for this process and those that it starts."""
    info = tmp_path / "site" / "sslkit_faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sslkit-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sslkit]\nfaulty = faulty_objectives\n")
    (tmp_path / "site" / "faulty_objectives.py").write_text(FOREIGN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    sys.modules.pop("faulty_objectives", None)


@pytest.fixture
def world_size(tmp_path, monkeypatch, capsys, foreign):
    """Return a function that runs `sslkit verify world-size`, which starts the processes that it compares."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLKIT_PLUGINS", "faulty,heads,images,lightly,logs,timm,torchvision,univip")

    def world_size(text, *more):
        Path("small.toml").write_text(text)
        code = main(["verify", "world-size", "small.toml", "--accelerator", "cpu", "--json", *more])
        out, err = capsys.readouterr()
        assert code in (0, 1), err
        return code, json.loads(out)

    return world_size


WITHOUT_BATCH_NORM = {
    'use = "resnet18"\nwidth = 8': 'use = "timm"\nmodel = "test_vit"\nimage_size = 32',
    "hidden = 16": 'norm = "layer", hidden = 16',
}


def with_layer_norm(text):
    for old, new in WITHOUT_BATCH_NORM.items():
        text = text.replace(old, new)
    return text


@pytest.mark.slow
def test_batch_norm_breaks_equality_and_so_does_a_buffer_of_own_rows(world_size, small_recipe):
    text = small_recipe.replace("[objectives.scene-scene]", "[objectives.ring]\n[objectives.scene-scene]")
    code, [comparison] = world_size(text, "--steps", "1")
    assert code == 1
    assert [text.partition(":")[0].partition(",")[0] for text in comparison["breaking"]] == [
        "batch norm statistics",
        "a queue",
    ]
    assert comparison["first"]["name"] == "online.backbone.bn1 (BatchNorm2d), call 1"
    assert comparison["whole_batch_norm"]["first"]["name"] == "objectives.ring.rows"


@pytest.mark.slow
def test_an_objective_that_sees_the_rows_of_its_rank_only_breaks_equality(world_size, small_recipe):
    text = with_layer_norm(small_recipe).replace("[objectives.scene-scene]", "[objectives.contrast]")
    code, [comparison] = world_size(text, "--steps", "1")
    assert code == 1
    assert comparison["first"]["name"] == "contrast.loss"
    assert comparison["breaking"][0].startswith("gather: the objective sees the rows of its own rank only")


@pytest.mark.slow
def test_contrastive_objectives_and_a_queue_of_keys_are_the_same_on_one_and_three_ranks(world_size, small_recipe):
    text = with_layer_norm(small_recipe).replace(
        "[objectives.scene-scene]", "[objectives.simclr]\n[objectives.moco]\nqueue = 16"
    )
    text = text.replace("batch_size = 4", "batch_size = 12").replace("images = 8", "images = 24")
    code, comparisons = world_size(text, "--sizes", "1,3", "--steps", "2")
    assert code == 0
    assert [item["sizes"] for item in comparisons] == [[1, 3]]
    assert all(item["breaking"] == [] and 0 < max(item["largest"].values()) < 1e-6 for item in comparisons)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sizes", "2"], "--sizes 2: write two or more numbers of ranks, as in --sizes 1,2"),
        (["--sizes", "1,zwei"], "--sizes 1,zwei: write two or more"),
        (["--sizes", "1,3"], "batch_size = 4 over 3 ranks"),
    ],
)
def test_invalid_numbers_of_ranks(tmp_path, monkeypatch, capsys, small_recipe, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(small_recipe)
    assert main(["verify", "world-size", "small.toml", *more]) == 2
    assert message in capsys.readouterr().err
