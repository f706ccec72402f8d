"""The Python interface: what each function returns and refuses, and that importing it is light."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sslkit
from sslkit.ablation import execute
from sslkit.errors import DataError, PluginError, RecipeError, SslkitError, UsageError
from sslkit.planning.plan import Plan
from sslkit.plugins import Plugins
from sslkit.training import trainer
from sslkit.training.options import RunOptions
from tests.conftest import SMALL

PROBED = f"{SMALL}\n[probes.knn]\nk = 1\nsize = 16\n"
HERE = {"workers": 0, "accelerator": "cpu"}


@pytest.fixture
def recipe(tmp_path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run with probes."""
    folder = tmp_path_factory.mktemp("facade")
    (folder / "small.toml").write_text(PROBED)
    return sslkit.train(folder / "small.toml", folder / "runs", **HERE).folder


def refused(kind: type[SslkitError], call, *args, **options) -> str:
    """Return the message of the error that a call raises."""
    with pytest.raises(kind) as raised:
        call(*args, **options)
    assert type(raised.value) is kind
    return str(raised.value)


# ------------------------------------------------------------------------------------------------------ laziness


def in_new_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip


def test_importing_the_package_and_loading_a_recipe_does_not_import_torch() -> None:
    code = """if True:
        import sys, sslkit
        assert set(sslkit.__all__) <= set(dir(sslkit))
        light = "sslkit.facade" not in sys.modules
        recipe = sslkit.load("quickstart", set={"epochs": 3})
        print(light, recipe.values["epochs"], "torch" in sys.modules)
    """
    assert in_new_process(code) == "True 3 False"


def test_the_package_has_its_functions_and_no_other_attribute() -> None:
    assert all(getattr(sslkit, name) for name in sslkit.__all__)
    with pytest.raises(AttributeError, match="module 'sslkit' has no attribute 'fit'"):
        sslkit.fit  # noqa: B018


# ---------------------------------------------------------------------------------------------------------- load


def test_values_are_set_as_python_has_them(recipe) -> None:
    loaded = sslkit.load(
        recipe,
        set={
            "steps": np.int64(5),
            "optimizer.base_lr": np.float32(0.5),
            "optimizer.momentum": True,
            "source": {"use": "folder", "root": Path("my images")},
            "augment.scene.0.blur_sigma": (0.1, 0.5),
            "summary": "5",
            "objectives.odd": {"inputs": {"a b": "c"}, "plain": {}},
        },
    )
    assert loaded.values["steps"] == 5
    assert loaded.values["optimizer"] == {"use": "sgd", "base_lr": 0.5, "momentum": True}
    assert loaded.values["source"] == {"use": "folder", "root": "my images"}
    assert loaded.values["augment"]["scene"][0]["blur_sigma"] == [0.1, 0.5]
    assert loaded.values["summary"] == "5", "a string stays a string"
    assert loaded.values["objectives"]["odd"] == {"inputs": {"a b": "c"}, "plain": {}}


def test_a_length_in_the_other_unit_is_replaced(recipe) -> None:
    assert sslkit.load(recipe).values["steps"] == 2
    loaded = sslkit.load(recipe, set={"epochs": 3, "optimizer.warmup_steps": 1})
    assert (loaded.values["epochs"], "steps" in loaded.values) == (3, False)
    assert sslkit.plan(loaded).recipe.length == "3 epochs"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "steps = None: a recipe has no such value"),
        ({"heads": {"main": {"projector": object}}}, "heads.main.projector = <class 'object'>: a recipe has no"),
        (["steps=1"], "set = ['steps=1']: write keys and values"),
        ({"": 1}, "'' is not a dotted key"),
        ({"steps=1": 1}, "'steps=1' is not a dotted key"),
        ({"steps.a": 1}, "'a' cannot be set in 2, which is not a table"),
        ({"augment.scene.4.size": 1}, "'4' must be one of 0 to 0"),
    ],
)
def test_values_that_cannot_be_set(recipe, changes, message) -> None:
    assert message in refused(UsageError, sslkit.load, recipe, set=changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", "no recipe file or recipe is named 'quikstart': did you mean 'quickstart'?"),
        ("zebra", "; known: byol_coco, "),
        ("runs/none/full-s0", "'runs/none/full-s0'; `sslkit recipes` lists the names"),
        (str(Path(__file__).parent), "it is a folder without recipe.toml"),
    ],
)
def test_recipes_that_are_not_found(name, message) -> None:
    text = refused(RecipeError, sslkit.load, name)
    assert message in text
    assert "known" not in text or name == "zebra", "names do not help where a path is wrong"


@pytest.mark.parametrize("value", [None, {"epochs": 1}, 3])
def test_a_recipe_has_a_name_or_a_path(value) -> None:
    expected = f"a recipe is a name, a path or what sslkit.load returns, not {type(value).__name__}"
    assert refused(UsageError, sslkit.plan, value) == expected


def test_a_recipe_prints_short(recipe) -> None:
    assert repr(sslkit.load(recipe, set={"steps": 3})) == f"RecipeFile(small in {recipe}, steps=3)"


# ----------------------------------------------------------------------------------------------- plan and cost


def test_a_plan_is_described_in_words(recipe) -> None:
    plan = sslkit.plan(sslkit.load(recipe, set={"summary": "tiny", "objectives.scene-scene.weight": 0.5}))
    assert repr(plan) == "Plan(small: 0.5 x scene-scene; 2 scene views; torchvision/resnet18; 2 steps)"
    lines = plan.summary().splitlines()
    assert lines[0] == "small: tiny"
    assert "  views          scene.online 2 x 32 px" in lines
    assert "  networks       online and target, torchvision/resnet18" in lines
    objective = "0.5 x univip/scene-scene(online.prediction.scene, target.projection.scene)"
    assert f"  objective      {objective}" in lines
    assert sslkit.plan(plan) is plan


def test_a_plan_reports_every_problem_and_prints_nothing(recipe, capsys) -> None:
    faulty = sslkit.load(recipe, set={"step": 1, "optimizer.base": 1})
    with pytest.raises(RecipeError, match="has 2 problems") as raised:
        sslkit.plan(faulty)
    assert [problem.key for problem in raised.value.problems] == [("step",), ("optimizer", "base")]
    assert capsys.readouterr() == ("", "")


def test_a_component_that_no_plugin_offers_is_a_problem_of_the_plan(recipe) -> None:
    text = refused(RecipeError, sslkit.plan, sslkit.load(recipe, set={"backbone": {"use": "resnet19"}}))
    assert "unknown backbone 'resnet19': did you mean 'resnet18'?" in text


def test_the_cost_of_a_recipe_is_that_of_its_plan(recipe) -> None:
    cost = sslkit.cost(recipe)
    assert cost == sslkit.cost(sslkit.load(recipe)) == sslkit.cost(sslkit.plan(recipe))
    assert cost.online_parameters > cost.target_parameters > 0


# --------------------------------------------------------------------------------------------------------- train


def test_a_run_is_stopped_resumed_and_then_only_read(recipe, tmp_path) -> None:
    plan = sslkit.plan(recipe)
    stopped = sslkit.train(plan, tmp_path / "runs", stop_after=1, **HERE)
    folder = tmp_path / "runs" / "small" / "full-s0"
    assert (stopped.folder, stopped.state, stopped.step) == (folder, "stopped", 1)
    assert repr(stopped) == f"Result(stopped at step 1 of 2, loss {stopped.terms['loss']:.4g}, in {folder})"
    resumed = sslkit.train(folder, **HERE)
    assert (resumed.folder, resumed.state, resumed.resumed_from) == (folder, "finished", 1)
    again = sslkit.train(sslkit.load(folder), **HERE)
    assert (again.folder, again.step, again.terms) == (folder, 2, {})
    assert repr(again) == f"Result(finished at step 2 of 2, in {folder})"


def test_an_arm_has_a_folder_of_its_own(run, tmp_path) -> None:
    other = sslkit.train(sslkit.load(run, set={"steps": 1, "probes": {}}), tmp_path, arm="short", **HERE)
    assert other.folder == tmp_path / "recipe" / "short-s0"
    assert other.step == 1


def test_a_changed_recipe_does_not_resume_a_run(run) -> None:
    text = refused(RecipeError, sslkit.train, sslkit.load(run, set={"batch_size": 2}), **HERE)
    assert "made by a different recipe" in text
    assert "batch_size: 4 -> 2" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": 1}, "unknown option 'worker': did you mean 'workers'?"),
        ({"zebra": 1}, "unknown option 'zebra'; known: accelerator, "),
        ({"workers": "many"}, 'workers = "many": must be a valid integer'),
        ({"save_every": 0}, "save_every = 0: must be greater than or equal to 1"),
        ({"probe_every": 0}, "probe_every = 0: must be greater than or equal to 1"),
        ({"on_collapse": "panic"}, "on_collapse = \"panic\": must be 'warn' or 'stop'"),
        ({"devices": 2}, "sslkit.train uses one device; for several write the command"),
        ({"devices": "8"}, "sslkit.train uses one device"),
        ({"nodes": 2}, "sslkit.train uses one device"),
        ({"keep": [1]}, "keep = [1]: must be a valid integer"),
    ],
)
def test_options_of_a_run_are_checked_before_anything_is_built(options, message, tmp_path) -> None:
    assert message in refused(UsageError, sslkit.train, "quickstart", tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


def test_several_faulty_options_are_listed_together() -> None:
    assert len(refused(UsageError, sslkit.train, "quickstart", zebra=1, keep=0).splitlines()) == 2


@pytest.mark.parametrize("devices", [1, "1", "auto"])
def test_one_device_is_used_whatever_the_machine_has(devices, recipe, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(trainer, "train", lambda *arguments: arguments[-1])
    options = sslkit.train(recipe, tmp_path, devices=devices, workers=np.int64(2), save_every=None)
    assert options == RunOptions(devices="1", workers=2)


def test_missing_images_come_with_the_command_that_gets_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "download it with" in refused(DataError, sslkit.train, "univip_coco")
    assert not list(tmp_path.iterdir())


def test_a_plan_made_elsewhere_cannot_be_trained(recipe) -> None:
    plan = sslkit.plan(recipe)
    fields = (plan.recipe, plan.source, plan.proposer, plan.sampler, plan.backbone, plan.optimizer)
    assert refused(UsageError, sslkit.train, Plan(*fields)) == (
        "this plan has no recipe file: make it with sslkit.plan"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["train", "ablate", "probe"])
def test_a_script_without_a_guard_is_told_what_to_write(name, monkeypatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    assert 'if __name__ == "__main__":' in refused(UsageError, getattr(sslkit, name), "quickstart")


# -------------------------------------------------------------------------------------------------------- ablate


def test_an_ablation_trains_each_arm_once_and_writes_its_report(recipe, tmp_path, monkeypatch, capsys) -> None:
    trained = []

    def train_here(ablation, options, jobs, notify) -> None:
        assert (options, jobs) == (RunOptions(devices="2", workers=0), 3)
        for run in ablation.runs():
            trained.append(f"{run.arm} {run.seed}")
            trainer.train(run.plan, ablation.full, Plugins.load(), run.folder, RunOptions(**HERE))
            notify(f"{run.arm} is done")

    monkeypatch.setattr(execute, "train_runs", train_here)
    results = sslkit.ablate(
        sslkit.plan(recipe), vary="optimizer.base_lr=0.2", seeds=2, jobs=3, runs=tmp_path / "runs",
        out=tmp_path / "report", devices=2, workers=0,
    )  # fmt: skip
    assert trained == ["full 0", "optimizer.base_lr=0.2 0", "full 1", "optimizer.base_lr=0.2 1"]
    assert repr(results) == "Results(small: full (2 of 2 finished), optimizer.base_lr=0.2 (2 of 2 finished))"
    assert (tmp_path / "report" / "table.csv").exists()
    printed = capsys.readouterr()
    assert "base_lr=0.2" in printed.out
    assert "full is done" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing is varied"),
        ({"drop": "zebra"}, "--drop zebra: "),
        ({"drop": ["zebra", "scene-scene"]}, "has no objective 'zebra'; it has scene-scene"),
        ({"seeds": 0}, "seeds = 0, jobs = 1: both must be at least 1"),
        ({"jobs": 0}, "seeds = 1, jobs = 0: both must be at least 1"),
        ({"zebra": 0}, "unknown option 'zebra'"),
    ],
)
def test_requests_that_cannot_be_met(arguments, message, recipe, tmp_path) -> None:
    assert message in refused(UsageError, sslkit.ablate, recipe, runs=tmp_path / "runs", **arguments)
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------- probe and backbone


def test_a_run_is_probed_without_writing(run) -> None:
    before = (run / "probes.json").read_bytes()
    scores = sslkit.probe(run, accelerator="cpu", references=True)
    assert set(scores) == {"raw pixels", "random weights", "random weights, calibrated", "trained"}
    assert set(scores["trained"]) == {"knn"}
    other = sslkit.probe(run, probes="knn", set={"probes.knn.k": 2}, accelerator="cpu")
    assert set(other) == {"trained"}
    calibrated = sslkit.probe(run, recalibrate=True, accelerator="cpu")
    assert set(calibrated) == {"trained, calibrated"}
    assert calibrated["trained, calibrated"]["knn"]["count_test"] == scores["trained"]["knn"]["count_test"]
    assert (run / "probes.json").read_bytes() == before


def test_a_file_is_probed_with_a_recipe(run, recipe) -> None:
    recipe.write_text(PROBED)
    weights = run / "backbone.safetensors"
    for source in (recipe, sslkit.load(recipe), sslkit.plan(recipe)):
        assert sslkit.probe(weights, source, accelerator="cpu") == {
            "backbone.safetensors": sslkit.probe(run, accelerator="cpu")["trained"]
        }


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (DataError, {"weights": "none.pt"}, "none.pt is not found: write a run's folder or a weights file"),
        (UsageError, {"weights": "."}, "is not a run's folder: recipe.toml is missing"),
        (UsageError, {"weights": "RUN", "backbone": "resnet18"}, "backbone: for weights files"),
        (UsageError, {"weights": "RUN", "prefix": "a."}, "prefix: for weights files"),
        (UsageError, {"weights": "RUN", "key": "teacher"}, "key: for weights files"),
        (UsageError, {"weights": "RUN", "probes": "kmm"}, "--probe kmm: unknown probe; known probes: knn, linear"),
        (UsageError, {"weights": "RUN", "accelerator": "gpuu"}, "write auto, cpu, cuda or mps"),
        (DataError, {"weights": "FILE", "recipe": "quickstart"}, "the weights do not fit"),
    ],
)
def test_what_cannot_be_probed(run, kind, arguments, message) -> None:
    place = {"RUN": run, "FILE": run / "backbone.safetensors"}.get(arguments["weights"], arguments["weights"])
    assert message in refused(kind, sslkit.probe, **arguments | {"weights": place})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_the_machine_lacks(run) -> None:
    assert "torch finds no such device" in refused(UsageError, sslkit.probe, run, accelerator="cuda")


def test_the_backbone_of_a_run_and_of_its_file_are_the_same(run) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    network = sslkit.backbone(run)
    assert not network.training
    features = network(images)
    assert features.shape == (2, network.dim)
    assert torch.equal(features, sslkit.backbone(run / "backbone.safetensors", "resnet18", width=8)(images))


def test_a_prefix_selects_the_keys_of_a_file(run, tmp_path) -> None:
    network = sslkit.backbone(run)
    torch.save({f"module.{key}": value for key, value in network.backbone.state_dict().items()}, tmp_path / "w.pt")
    loaded = sslkit.backbone(tmp_path / "w.pt", "resnet18", prefix="module.", width=8)
    assert torch.equal(loaded.backbone.conv1.weight, network.backbone.conv1.weight)
    assert "write --prefix module." in refused(DataError, sslkit.backbone, tmp_path / "w.pt", "resnet18", width=8)


def test_a_key_selects_a_state_dict_of_a_file(run, recipe, tmp_path) -> None:
    network = sslkit.backbone(run)
    teacher = network.backbone.state_dict()
    student = {key: value * 0 for key, value in teacher.items()}
    path = tmp_path / "w.pt"
    torch.save({"student": student, "teacher": teacher}, path)
    loaded = sslkit.backbone(path, "resnet18", key="teacher", width=8)
    assert torch.equal(loaded.backbone.conv1.weight, network.backbone.conv1.weight)
    message = refused(DataError, sslkit.backbone, path, "resnet18", width=8)
    assert f"    student: {len(teacher)} tensors, of which {len(teacher)} fit" in message
    recipe.write_text(PROBED)
    assert sslkit.probe(path, recipe, key="teacher", accelerator="cpu") == {
        "w.pt": sslkit.probe(run, accelerator="cpu")["trained"]
    }


@pytest.mark.parametrize(
    ("kind", "weights", "name", "options", "message"),
    [
        (DataError, "none.pt", "resnet18", {}, "none.pt is not found"),
        (UsageError, "FILE", None, {}, "write the backbone that it belongs to, such as 'resnet50'"),
        (UsageError, "RUN", "resnet18", {}, "name: for weights files"),
        (UsageError, "RUN", None, {"width": 8}, "width: for weights files"),
        (PluginError, "FILE", "resnet19", {}, "unknown backbone 'resnet19': did you mean 'resnet18'?"),
        (RecipeError, "FILE", "resnet18", {"wdth": 8}, "unknown option 'wdth': did you mean 'width'?"),
        (RecipeError, "FILE", "resnet18", {"width": 0}, "torchvision/resnet18: width = 0: must be greater"),
        (DataError, "FILE", "resnet18", {}, "the weights do not fit"),
    ],
)
def test_backbones_that_cannot_be_loaded(run, kind, weights, name, options, message) -> None:
    place = {"RUN": run, "FILE": run / "backbone.safetensors"}.get(weights, weights)
    assert message in refused(kind, sslkit.backbone, place, name, **options)


# ----------------------------------------------------------------------------------------------------- objective


def test_an_objective_is_a_module_with_checked_options() -> None:
    objective = sslkit.objective("scene-scene", {"v": 2, "d": 8}, pair_loss="squared-distance")
    p = torch.randn(4, 2, 8)
    assert objective(p=p, z=p.flip(1)).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "dims", "options", "message"),
    [
        (PluginError, "sceen-scene", {}, {}, "unknown objective 'sceen-scene': did you mean 'scene-scene'?"),
        (RecipeError, "scene-scene", {"v": 2}, {}, "univip/scene-scene: dims = {'v': 2} lacks d; it reads "),
        (RecipeError, "instance-instance", {}, {}, "dims = {} lacks k, d, v; "),
        (RecipeError, "scene-scene", {"v": 1, "d": 8}, {}, "univip/scene-scene: needs two views or more"),
        (RecipeError, "scene-scene", {"v": 2, "d": 8}, {"pair": 1}, "univip/scene-scene: unknown option 'pair'"),
        (RecipeError, "instance-instance", {"v": 2, "d": 8, "k": 2}, {"epsilon": -1}, "epsilon = -1: must be greater"),
        (UsageError, "instance-instance", {"v": 2, "d": 8, "k": 2}, {"epsilon": None}, "epsilon = None"),
    ],
)
def test_objectives_that_cannot_be_built(kind, name, dims, options, message) -> None:
    assert message in refused(kind, sslkit.objective, name, dims, **options)


def test_every_objective_needs_the_sizes_that_a_recipe_would_bind(installed) -> None:
    """The kit's sizes, which come from the rows by other means, suffice for each of them."""
    from sslkit.testing import fake_dims

    for component in installed.components["objective"].values():
        required = {axis: size for axis, size in fake_dims(component.cls).items() if axis not in "hw"}
        text = refused(RecipeError, sslkit.objective, component.id, {})
        missing = text.partition("lacks ")[2].partition(";")[0].split(", ")
        assert set(missing) <= set(required), component.id
