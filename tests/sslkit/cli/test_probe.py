"""`sslkit probe`: of runs and of files, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from sslkit.__main__ import main
from sslkit.storage.checkpoint import save_weights

PROBE = "[probes.knn]\nk = 3\nsize = 24\nmin_side = 8\nlimit = 60\n"
RUN = ["run", "small.toml", "--workers", "0", "--accelerator", "cpu"]
FOLDER = "runs/small/full-s4"


@pytest.fixture
def recipe(small_recipe):
    return "seed = 4\n" + small_recipe.replace("images = 8", "images = 24") + PROBE


@pytest.fixture
def here(tmp_path, monkeypatch, recipe):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(recipe)
    return tmp_path


@pytest.fixture
def finished(here):
    assert main(RUN) == 0
    return here / FOLDER


def probed(capsys, *arguments):
    capsys.readouterr()
    code = main(["probe", *arguments, "--accelerator", "cpu", "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out), said.err


def refused(capsys, *arguments, code):
    capsys.readouterr()
    assert main(["probe", *arguments, "--accelerator", "cpu"]) == code
    return capsys.readouterr().err.partition("error: ")[2]


def test_a_finished_run_gives_its_own_figures_again(finished, capsys):
    before = json.loads((finished / "probes.json").read_text())
    found, _ = probed(capsys, FOLDER, "--references")
    assert found["probes"] == before
    assert found["partial"] is None
    assert json.loads((finished / "probes.json").read_text()) == before


def test_other_probes_are_added_and_nothing_is_lost(finished, capsys):
    before = json.loads((finished / "probes.json").read_text())
    linear = ["--probe", "linear", "--set", "probes.linear={epochs=2, size=24, min_side=8, limit=60}"]
    probed(capsys, FOLDER, *linear)
    probed(capsys, FOLDER, "--set", "probes.knn.k=5")
    after = json.loads((finished / "probes.json").read_text())
    assert {name: after[name] for name in before} == before
    (first, second) = [name for name in after if name not in before]
    assert second == "trained (probes.knn.k=5)"
    assert set(after[first]) == {"linear"}
    assert {"top1", "chosen_lr"} <= set(after[first]["linear"])
    assert main(["probe", FOLDER]) == 0
    shown = capsys.readouterr().out
    assert "chosen lr" in shown
    assert "written to" in shown


def test_a_stopped_run_gives_its_newest_checkpoint(here, capsys):
    assert main([*RUN, "--stop-after", "1"]) == 0
    found, _ = probed(capsys, FOLDER)
    assert found["weights"].endswith("step-00000001.pt")
    assert list(found["probes"]) == ["step 1"]
    assert main(RUN) == 0
    probes = json.loads((here / FOLDER / "probes.json").read_text())
    assert list(probes) == ["raw pixels", "random weights", "step 1", "trained"]


def test_a_run_that_is_going_on_is_measured_and_left_alone(finished, capsys, monkeypatch):
    from sslkit.storage.run_folder import RunFolder

    before = (finished / "probes.json").read_text()
    monkeypatch.setattr(RunFolder, "busy", property(lambda self: True))
    found, said = probed(capsys, FOLDER, "--set", "probes.knn.k=4")
    assert "these figures were not written" in said
    assert found["written"] is None
    assert (finished / "probes.json").read_text() == before


def test_a_file_needs_no_more_than_a_backbone_and_a_probe(finished, capsys):
    """The same weights as a file, as a state dict of torch.save, and inside another network's."""
    expected = json.loads((finished / "probes.json").read_text())["trained"]["knn"]
    from sslkit.storage.checkpoint import load_weights

    tensors, _ = load_weights(finished / "backbone.safetensors")
    torch.save(tensors, "plain.pt")
    torch.save({"state_dict": {f"module.{key}": value for key, value in tensors.items()}, "epoch": 3}, "module.pth")
    options = ["--set", "backbone.width=8", "--set", "seed=4", "--probe", "knn"]
    options += ["--set", "source={use='sample-scenes', images=24, side=96}"]
    options += ["--set", "probes.knn={k=3, size=24, min_side=8, limit=60}", "--backbone", "resnet18"]
    for file, more in (
        (f"{FOLDER}/backbone.safetensors", []), ("plain.pt", []), ("module.pth", ["--prefix", "module."]),
        (f"{FOLDER}/checkpoints/step-00000002.pt", ["--prefix", "online.backbone."]),
    ):  # fmt: skip
        found, _ = probed(capsys, file, *options, *more)
        (figures,) = found["probes"].values()
        assert figures["knn"] == expected
    found, _ = probed(capsys, "plain.pt", "--recipe", "small.toml")
    assert found["probes"]["plain.pt"]["knn"] == expected


def test_weights_that_do_not_fit_are_refused_before_anything_is_read(here, capsys, installed):
    tensors = installed.find("backbone", "resnet18").cls(width=8).state_dict()
    odd = dict(tensors) | {"fc.weight": torch.zeros(3, 64), "bn1.bias": torch.zeros(9)}
    del odd["conv1.weight"]
    save_weights(here / "odd.safetensors", odd, {})
    told = refused(capsys, "odd.safetensors", "--recipe", "small.toml", code=5)
    assert f"the weights do not fit: {len(tensors) - 2} of the backbone's {len(tensors)} tensors" in told
    assert "1 missing in the file: conv1.weight" in told
    assert "1 unexpected in the file: fc.weight" in told
    assert "1 of another shape: bn1.bias ([9] in the file, [8] in the backbone)" in told
    assert "write --allow-partial" in told
    found, said = probed(capsys, "odd.safetensors", "--recipe", "small.toml", "--allow-partial")
    count = len(tensors)
    assert f"PARTIAL WEIGHTS: {count - 2} of the backbone's {count} tensors are in odd.safetensors" in said
    assert "conv1.weight" in found["partial"]


def test_a_prefix_is_recognised_and_named(here, capsys, installed):
    tensors = installed.find("backbone", "resnet18").cls(width=8).state_dict()
    torch.save({f"module.{key}": value for key, value in tensors.items()}, "all.pt")
    torch.save({f"encoder_q.{key}": value for key, value in tensors.items()} | {"queue": torch.zeros(3, 3)}, "some.pt")
    assert "all keys begin with 'module.': write --prefix module." in refused(
        capsys, "all.pt", "--recipe", "small.toml", "--allow-partial", code=5
    )
    told = refused(capsys, "some.pt", "--recipe", "small.toml", code=5)
    assert f"{len(tensors)} of them are found below 'encoder_q.': write --prefix encoder_q." in told
    assert "found without a prefix" in refused(
        capsys, _plain(tensors), "--recipe", "small.toml", "--prefix", "module.", code=5
    )


def _plain(tensors):
    torch.save(dict(tensors), "plain.pt")
    return "plain.pt"


class Code:
    def __reduce__(self):
        return (exec, ("open('ran', 'w').close()",))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state_dict": {"a": torch.zeros(2)}, "hparams": Code()}, "exec). Where you trust it"),
        ({"a": {"w": torch.zeros(2)}, "b": {"w": torch.zeros(2)}}, "holds several state dicts (a, b)"),
        ({"epoch": 3}, "holds no state dict: it has the keys epoch"),
        ([1, 2], "holds no state dict: it has list"),
    ],
)
def test_files_that_are_no_weights(here, capsys, state, words):
    torch.save(state, "bad.pt")
    assert words in refused(capsys, "bad.pt", "--recipe", "small.toml", code=5)
    assert not (here / "ran").exists()


def test_damaged_and_missing_files(here, capsys):
    (here / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    assert "cut.pt cannot be read as weights" in refused(capsys, "cut.pt", "--recipe", "small.toml", code=5)
    assert "no weights at none.pt" in refused(capsys, "none.pt", "--recipe", "small.toml", code=5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["x.pt", "--probe", "kn"], 2, "--probe kn: there is no such probe: did you mean 'knn'?"),
        (["x.pt", "--backbone", "resnet18"], 2, "nothing to measure: the command line has no [probes]; write --probe"),
        (["x.pt", "--probe", "knn"], 2, "which backbone are these weights of? Write --backbone resnet50"),
        (["x.pt", "--probe", "knn", "--backbone", "resnet81"], 3, "did you mean 'resnet"),
        (["x.pt", "--probe", "knn", "--backbone", "resnet18"], 3, "the recipe names no source"),
        (["x.pt", "--recipe", "small.toml", "--set", "probes.knn.kk=3"], 3, "unknown option 'kk': did you mean 'k'"),
        (
            ["x.pt", "--recipe", "small.toml", "--set", "probes.knn.source={use='folder', root='nowhere'}"],
            5, "[probes.knn.source] there is no folder",
        ),
        (["."], 2, "is no run: it has no recipe.toml"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(here, capsys, arguments, code, words):
    assert words in refused(capsys, *arguments, code=code)


def test_options_that_are_for_files_only(here, recipe, capsys):
    (here / "recipe.toml").write_text(recipe)
    assert "--backbone is for a file of weights" in refused(capsys, ".", "--backbone", "resnet18", code=2)
    assert "--prefix is for a file" in refused(capsys, ".", "--prefix", "a.", code=2)
    assert "nothing to measure yet" in refused(capsys, ".", code=5)
    assert main(["probe", ".", "--accelerator", "tpu"]) == 2


def test_check_names_missing_images_of_probes(here, capsys):
    assert main(["check", "small.toml", "--set", "probes.knn.test_source={use='coco', root='no'}"]) == 5
    assert "[probes.knn.test_source] COCO is not where" in capsys.readouterr().err
