"""`sslkit probe` on runs and on weights files, and the errors that it reports."""

from __future__ import annotations

import json

import pytest
import torch

from sslkit.__main__ import main
from sslkit.storage import weights

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
    """Run the command; return its JSON output and its messages."""
    capsys.readouterr()
    code = main(["probe", *arguments, "--accelerator", "cpu", "--json"])
    output = capsys.readouterr()
    assert code == 0, output.err
    return json.loads(output.out), output.err


def refused(capsys, *arguments, code):
    """Run the command, which must end with `code`; return its error message."""
    capsys.readouterr()
    assert main(["probe", *arguments, "--accelerator", "cpu"]) == code
    return capsys.readouterr().err.partition("error: ")[2]


def test_a_finished_run_gets_its_own_scores_again(finished, capsys):
    before = json.loads((finished / "probes.json").read_text())
    report, _ = probed(capsys, FOLDER, "--references")
    assert report["probes"] == before
    assert report["partial"] is None
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


def test_the_newest_checkpoint_of_a_stopped_run_is_measured(here, capsys):
    assert main([*RUN, "--stop-after", "1"]) == 0
    report, _ = probed(capsys, FOLDER)
    assert report["weights"].endswith("step-00000001.pt")
    assert list(report["probes"]) == ["step 1"]
    assert main(RUN) == 0
    probes = json.loads((here / FOLDER / "probes.json").read_text())
    assert list(probes) == ["raw pixels", "random weights", "random weights, calibrated", "step 1", "trained"]


def test_recalibrated_weights_have_a_row_of_their_own(finished, capsys):
    """Calibrate the same weights of the run, of its file, and by hand."""
    before = json.loads((finished / "probes.json").read_text())
    file = (finished / "backbone.safetensors").read_bytes()
    report, _ = probed(capsys, FOLDER, "--recalibrate")
    assert list(report["probes"]) == ["trained, calibrated"]
    after = json.loads((finished / "probes.json").read_text())
    assert after == before | report["probes"]
    assert after["trained, calibrated"] != after["trained"]
    report, _ = probed(capsys, FOLDER, "--recalibrate", "--set", "probes.knn.k=5")
    assert list(report["probes"]) == ["trained, calibrated (probes.knn.k=5)"]
    weights_file = f"{FOLDER}/backbone.safetensors"
    report, _ = probed(capsys, weights_file, "--recipe", "small.toml", "--recalibrate", "--references")
    assert list(report["probes"]) == [*list(before)[:3], "backbone.safetensors, calibrated"]
    assert report["probes"]["backbone.safetensors, calibrated"] == after["trained, calibrated"]
    assert report["probes"]["random weights, calibrated"] == before["random weights, calibrated"]
    assert (finished / "backbone.safetensors").read_bytes() == file


def test_a_backbone_without_batch_norm_cannot_be_recalibrated(here, capsys, installed):
    vit = installed.find("backbone", "timm").cls(model="vit_tiny_patch16_224", image_size=32)
    torch.save(dict(vit.state_dict()), "vit.pt")
    change = "backbone={use='timm', model='vit_tiny_patch16_224', image_size=32}"
    options = ["--recipe", "small.toml", "--set", change, "--set", "probes.knn.size=32", "--recalibrate"]
    error = refused(capsys, "vit.pt", *options, code=2)
    assert "backbone 'timm/timm' has no batch norm, so nothing can be recalibrated" in error


def test_a_run_that_is_going_on_is_measured_and_left_alone(finished, capsys, monkeypatch):
    from sslkit.storage.run_folder import RunFolder

    before = (finished / "probes.json").read_text()
    monkeypatch.setattr(RunFolder, "busy", property(lambda self: True))
    report, messages = probed(capsys, FOLDER, "--set", "probes.knn.k=4")
    assert "these scores were not written" in messages
    assert report["written"] is None
    assert (finished / "probes.json").read_text() == before


def test_a_file_needs_no_more_than_a_backbone_and_a_probe(finished, capsys):
    """Measure the same weights from safetensors, from a state dict of torch.save, and from a larger network's."""
    expected = json.loads((finished / "probes.json").read_text())["trained"]["knn"]
    tensors, _ = weights.load(finished / "backbone.safetensors")
    torch.save(tensors, "plain.pt")
    torch.save({"state_dict": {f"module.{key}": value for key, value in tensors.items()}, "epoch": 3}, "module.pth")
    options = ["--set", "backbone.width=8", "--set", "seed=4", "--probe", "knn"]
    options += ["--set", "source={use='sample-scenes', images=24, side=96}"]
    options += ["--set", "probes.knn={k=3, size=24, min_side=8, limit=60}", "--backbone", "resnet18"]
    for file, more in (
        (f"{FOLDER}/backbone.safetensors", []), ("plain.pt", []), ("module.pth", ["--prefix", "module."]),
        (f"{FOLDER}/checkpoints/step-00000002.pt", ["--prefix", "online.backbone."]),
    ):  # fmt: skip
        report, _ = probed(capsys, file, *options, *more)
        (figures,) = report["probes"].values()
        assert figures["knn"] == expected
    report, _ = probed(capsys, "plain.pt", "--recipe", "small.toml")
    assert report["probes"]["plain.pt"]["knn"] == expected


def test_weights_that_do_not_fit_are_refused_before_images_are_read(here, capsys, installed):
    tensors = installed.find("backbone", "resnet18").cls(width=8).state_dict()
    odd = dict(tensors) | {"fc.weight": torch.zeros(3, 64), "bn1.bias": torch.zeros(9)}
    del odd["conv1.weight"]
    weights.save(here / "odd.safetensors", odd, {})
    error = refused(capsys, "odd.safetensors", "--recipe", "small.toml", code=5)
    assert f"the weights do not fit: {len(tensors) - 2} of the backbone's {len(tensors)} tensors" in error
    assert "1 missing in the file: conv1.weight" in error
    assert "1 unexpected in the file: fc.weight" in error
    assert "1 of another shape: bn1.bias ([9] in the file, [8] in the backbone)" in error
    assert "write --allow-partial" in error
    report, messages = probed(capsys, "odd.safetensors", "--recipe", "small.toml", "--allow-partial")
    count = len(tensors)
    assert f"PARTIAL WEIGHTS: {count - 2} of the backbone's {count} tensors are in odd.safetensors" in messages
    assert "conv1.weight" in report["partial"]


def test_a_prefix_is_recognised_and_named(here, capsys, installed):
    tensors = installed.find("backbone", "resnet18").cls(width=8).state_dict()
    torch.save({f"module.{key}": value for key, value in tensors.items()}, "all.pt")
    torch.save({f"encoder_q.{key}": value for key, value in tensors.items()} | {"queue": torch.zeros(3, 3)}, "some.pt")
    assert "all keys begin with 'module.': write --prefix module." in refused(
        capsys, "all.pt", "--recipe", "small.toml", "--allow-partial", code=5
    )
    error = refused(capsys, "some.pt", "--recipe", "small.toml", code=5)
    assert f"{len(tensors)} of them are found under 'encoder_q.': write --prefix encoder_q." in error
    assert "found without a prefix" in refused(
        capsys, _plain(tensors), "--recipe", "small.toml", "--prefix", "module.", code=5
    )


def test_a_key_chooses_among_state_dicts(here, capsys, installed):
    tensors = installed.find("backbone", "resnet18").cls(width=8).state_dict()
    teacher = {f"module.{key}": value for key, value in tensors.items()}
    torch.save({"model": {"student": {"w": torch.ones(2)}, "teacher": teacher}, "epoch": 1}, "both.pt")
    error = refused(capsys, "both.pt", "--recipe", "small.toml", code=5)
    assert error.startswith("both.pt holds 2 state dicts: write --key NAME for one of them\n")
    count = len(tensors)
    assert f"    model.teacher: {count} tensors, of which {count} fit the backbone's {count} under 'module.'" in error
    assert "write --prefix module." in refused(
        capsys, "both.pt", "--recipe", "small.toml", "--key", "model.teacher", code=5
    )
    report, _ = probed(capsys, "both.pt", "--recipe", "small.toml", "--key", "model.teacher", "--prefix", "module.")
    expected, _ = probed(capsys, _plain(tensors), "--recipe", "small.toml")
    assert report["probes"]["both.pt"] == expected["probes"]["plain.pt"]
    assert "did you mean 'model.teacher'?" in refused(
        capsys, "both.pt", "--recipe", "small.toml", "--key", "teacher", code=5
    )


def _plain(tensors):
    torch.save(dict(tensors), "plain.pt")
    return "plain.pt"


class Code:
    def __reduce__(self):
        return (exec, ("open('ran', 'w').close()",))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"state_dict": {"a": torch.zeros(2)}, "hparams": Code()}, "exec). If you trust it"),
        (
            {"a": {"w": torch.zeros(2)}, "b": {"w": torch.zeros(2)}},
            "holds 2 state dicts: write --key NAME for one of them\n    a: 1 tensor, of which 0 fit",
        ),
        ({"epoch": 3}, "holds no state dict: it is a dict with the keys epoch"),
        ([1, 2], "holds no state dict: it is a list of 2: int, int"),
    ],
)
def test_files_that_hold_no_weights(here, capsys, state, message):
    torch.save(state, "bad.pt")
    assert message in refused(capsys, "bad.pt", "--recipe", "small.toml", code=5)
    assert not (here / "ran").exists()


def test_damaged_and_missing_files(here, capsys):
    (here / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    assert "cut.pt is not a complete archive of torch.save" in refused(
        capsys, "cut.pt", "--recipe", "small.toml", code=5
    )
    for options in (("--recipe", "small.toml"), ("--probe", "knn"), ()):
        message = refused(capsys, "cat.pt", *options, code=5)
        assert message == "no run or weights file found at cat.pt: did you mean 'cut.pt'?\n"
    assert "no run or weights file found at no/where" in refused(capsys, "no/where", code=5)
    assert "small.toml is not a weights file" in refused(capsys, "small.toml", "--recipe", "small.toml", code=5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x.pt", "--probe", "kn"], 2, "--probe kn: unknown probe: did you mean 'knn'?"),
        (["x.pt", "--backbone", "resnet18"], 2, "nothing to measure: the command line has no [probes]; write --probe"),
        (["x.pt", "--probe", "knn"], 2, "the backbone of these weights is unknown: write --backbone resnet50"),
        (["x.pt", "--probe", "knn", "--backbone", "resnet81"], 3, "did you mean 'resnet"),
        (["x.pt", "--probe", "knn", "--backbone", "resnet18"], 3, "the recipe names no source"),
        (["x.pt", "--recipe", "small.toml", "--set", "probes.knn.kk=3"], 3, "unknown option 'kk': did you mean 'k'"),
        (
            ["x.pt", "--recipe", "small.toml", "--set", "probes.knn.source={use='folder', root='nowhere'}"],
            5, "[probes.knn.source] folder not found",
        ),
        (["."], 2, "is not a run's folder: recipe.toml is missing"),
    ],
)  # fmt: skip
def test_invalid_requests(here, capsys, arguments, code, message):
    (here / "x.pt").touch()
    assert message in refused(capsys, *arguments, code=code)


def test_options_that_are_for_files_only(here, recipe, capsys):
    (here / "recipe.toml").write_text(recipe)
    assert "--backbone: for weights files" in refused(capsys, ".", "--backbone", "resnet18", code=2)
    assert "--prefix: for weights files" in refused(capsys, ".", "--prefix", "a.", code=2)
    assert "--key: for weights files" in refused(capsys, ".", "--key", "teacher", code=2)
    assert "nothing to measure yet" in refused(capsys, ".", code=5)
    assert main(["probe", ".", "--accelerator", "tpu"]) == 2


def test_check_names_missing_images_of_probes(here, capsys):
    assert main(["check", "small.toml", "--set", "probes.knn.test_source={use='coco', root='no'}"]) == 5
    assert "[probes.knn.test_source] COCO not found" in capsys.readouterr().err
