"""The recipes of lightly's methods: files, numbers from the papers, and two training steps on small networks."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import torch

from sslkit.__main__ import main
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.storage import checkpoint
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes" / "lightly"
PAGE = (ROOT / "docs" / "lightly.md").read_text()

LENGTHS = {  # epochs, batch size, peak learning rate
    "barlow_twins": (1000, 2048, 1.6), "byol": (1000, 4096, 3.2), "dcl": (200, 256, 1.2), "dclw": (200, 256, 1.2),
    "densecl": (200, 256, 0.03), "dino": (800, 1024, 0.002), "directclr": (100, 4096, 4.8), "emp_ssl": (30, 100, 0.3),
    "frossl": (1000, 256, 0.3), "lejepa": (100, 512, 5e-4), "macl": (200, 2048, 2.4), "mmcr": (100, 2048, 6.4),
    "moco_v2": (200, 256, 0.03), "moco_v3": (1000, 4096, 4.8), "moco_v3_vit": (300, 4096, 2.4e-3),
    "msn": (800, 1024, 1e-3), "nnclr": (1000, 4096, 4.8), "pmsn": (800, 1024, 1e-3), "simclr": (1000, 4096, 4.8),
    "simsiam": (100, 512, 0.1), "swav": (800, 4096, 4.8), "tico": (1000, 4096, 3.2), "vicreg": (1000, 2048, 1.6),
    "vicregl": (300, 2048, 1.6), "visreg": (400, 128, 9e-4), "w_mse": (1000, 256, 3e-3),
}  # fmt: skip
"""Values from the papers or the authors' code, after their own scaling: 4.8 is SimCLR's 0.3 * 4096 / 256."""

VALUES = {
    "barlow_twins": {"objectives.barlow-twins.off_diagonal": 0.0051, "optimizer.final_lr": 0.001},
    "byol": {"target.momentum": 0.996, "target.momentum_end": 1.0, "optimizer.weight_decay": 1.5e-6},
    "dcl": {"objectives.dcl.temperature": 0.1},
    "dclw": {"objectives.dclw.temperature": 0.1, "objectives.dclw.sigma": 0.5},
    "densecl": {"objectives.moco.weight": 0.5, "objectives.densecl.weight": 0.5, "objectives.densecl.temperature": 0.2},
    "dino": {
        "objectives.dino.first_target_temperature": 0.04, "objectives.dino.target_temperature": 0.07,
        "objectives.dino.temperature": 0.1, "heads.main.projector.out": 65536, "sampler.local_crops": 10,
        "optimizer.weight_decay": 0.04, "optimizer.final_weight_decay": 0.4, "target.momentum": 0.996,
    },
    "directclr": {"objectives.directclr.temperature": 0.1, "objectives.directclr.size": 360},
    "emp_ssl": {"objectives.emp-ssl.invariance": 200.0, "objectives.emp-ssl.eps": 0.2, "optimizer.clip": True},
    "frossl": {"objectives.frossl.invariance": 1.0, "optimizer.eta": 0.02, "optimizer.clip": True},
    "lejepa": {"objectives.lejepa.gaussian": 0.05, "sampler.local_crops": 6, "augment.local.0.size": 98},
    "macl": {"objectives.macl.temperature": 0.1, "objectives.macl.alpha": 1.0, "objectives.macl.alignment": 0.0},
    "mmcr": {"objectives.mmcr.compression": 0.0, "sampler.views": 8, "target.momentum_end": 0.99},
    "moco_v2": {"objectives.moco.temperature": 0.2, "objectives.moco.queue": 65536, "target.momentum_end": 0.999},
    "moco_v3": {"objectives.moco-v3.temperature": 1.0, "target.momentum": 0.996, "optimizer.weight_decay": 1.5e-6},
    "moco_v3_vit": {"objectives.moco-v3.temperature": 0.2, "target.momentum": 0.99, "optimizer.weight_decay": 0.1},
    "msn": {"objectives.msn.temperature": 0.1, "objectives.msn.sharpening": 0.25, "objectives.msn.prototypes": 1024},
    "nnclr": {"objectives.nnclr.temperature": 0.1, "objectives.nnclr.queue": 98304},
    "pmsn": {"objectives.pmsn.temperature": 0.1, "objectives.pmsn.exponent": 0.25},
    "simclr": {"objectives.simclr.temperature": 0.1, "augment.scene.0.hue": 0.2, "optimizer.weight_decay": 1e-6},
    "simsiam": {"heads.main.predictor.hidden": 512, "optimizer.weight_decay": 1e-4},
    "swav": {"objectives.swav.temperature": 0.1, "objectives.swav.epsilon": 0.05, "objectives.swav.prototypes": 3000},
    "tico": {"objectives.tico.beta": 0.9, "objectives.tico.rho": 8.0, "target.momentum": 0.99},
    "vicreg": {
        "objectives.vicreg.invariance": 25.0, "objectives.vicreg.variance": 25.0, "objectives.vicreg.covariance": 1.0,
    },
    "vicregl": {
        "objectives.vicreg.weight": 0.75, "objectives.vicregl.weight": 0.25, "objectives.vicregl.matches": [20, 4],
    },
    "visreg": {
        "objectives.visreg.gaussian": 0.9, "objectives.visreg.directions": 4096, "sampler.global_crops": 4,
        "augment.global.0.solarize": 0.1, "augment.local.0.solarize": 0.1,
    },
    "w_mse": {"objectives.w-mse.size": 128, "sampler.views": 4, "heads.main.projector.out": 64},
}  # fmt: skip
"""Values from the papers or the authors' code that define the method, temperatures first."""

REGULARISERS = {"lightly/hypersphere", "lightly/koleo", "lightly/sigreg"}
"""Objectives that are used together with another one and have no recipe of their own."""


def read(name, *sets):
    return recipe_file.read(FOLDER / f"{name}.toml", sets)


def planned(text, plugins):
    table, problems = recipe_file.check_structure(text)
    assert not problems, recipe_file.format_problems(text, problems)
    plan, problems = make_plan(table, plugins)
    assert not problems, recipe_file.format_problems(text, problems)
    return plan


@pytest.fixture(scope="module")
def plans(installed):
    """Return a function from a recipe's name to its unchanged plan, cached."""
    return functools.cache(lambda name: planned(read(name), installed))


# ------------------------------------------------------------------------------------------------ files


def test_these_recipes_are_shipped():
    assert {path.stem for path in FOLDER.iterdir()} == set(LENGTHS) == set(VALUES)
    shipped = recipe_file.shipped_recipes()
    assert {name for name in shipped if "/" in name} == {f"lightly/{name}" for name in LENGTHS}
    assert len({path.stem for path in shipped.values()}) == len(shipped)  # each has a short name, and runs of its own


@pytest.mark.parametrize("name", LENGTHS)
def test_each_has_no_problems_starts_with_its_command_and_names_its_paper(name, plans):
    assert plans(name).recipe.summary
    command, empty, *head = (FOLDER / f"{name}.toml").read_text().partition("\nsummary")[0].splitlines()
    assert (command, empty) == (f"# sslkit run recipes/lightly/{name}.toml", "#")
    text = " ".join(line.removeprefix("# ") for line in head)
    assert re.search(r"arXiv \d{4}\.\d{5}", text)
    assert re.search(r"reports? |No published figure|could not look up", text)


def test_every_method_of_the_plugin_has_a_recipe(installed, plans):
    used = {item.objective.component.id for name in LENGTHS for item in plans(name).objectives}
    known = {id_ for id_ in installed.components["objective"] if id_.startswith("lightly/")}
    assert used == known - REGULARISERS


def test_the_page_states_the_length_of_every_recipe():
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(\.\./recipes/lightly/\1\.toml\) (\|.*)$", PAGE, re.MULTILINE))
    assert rows.keys() == LENGTHS.keys()
    for name, (epochs, batch_size, _) in LENGTHS.items():
        assert f"| {epochs} | {batch_size} |" in rows[name], name


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("name", LENGTHS)
def test_length_batch_and_peak_learning_rate_are_the_papers(name, plans):
    settings = plans(name).recipe
    assert (settings.epochs, settings.batch_size) == LENGTHS[name][:2]
    assert settings.optimizer.lr(settings.batch_size) == pytest.approx(LENGTHS[name][2], rel=1e-9)


def at(values, path):
    for part in path.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


@pytest.mark.parametrize("name", VALUES)
def test_the_methods_own_values_are_the_papers(name, plans):
    resolved = plans(name).resolved()
    assert {path: at(resolved, path) for path in VALUES[name]} == VALUES[name]


# --------------------------------------------------------------------------------------------- training

RESNET = "backbone={use = 'resnet18', width = 8, stem = 'small'}"
VIT = "backbone={use = 'timm', model = 'test_vit', image_size = 32}"
SMALL = {"hidden": 16, "out": 8, "bottleneck": 8, "queue": 16, "prototypes": 8, "directions": 16, "size": 16,
         "matches": "[4, 2]"}  # fmt: skip
"""Options that set the size of heads and objectives -> small values. `size` is W-MSE's sub-batch, twice the width of
projections, and DirectCLR's number of entries."""


def shrunk(name):
    """Return overrides that keep the method but use sixteen built-in scenes, small networks and views, two steps."""
    values = read(name).values
    tables = {
        f"heads.{head}.{part}": options
        for head, table in values.get("heads", {}).items()
        for part, options in table.items()
    }
    tables |= {f"objectives.{key}": options for key, options in values["objectives"].items()}
    sets = [
        f"{path}.{option}={SMALL[option]}" for path, table in tables.items() for option in table
        if option in SMALL and table[option]
    ]  # fmt: skip
    sets += [
        f"augment.{group}.{place}.size=32" for group, views in values["augment"].items() for place in range(len(views))
    ]
    backbone = RESNET if values["backbone"]["use"].startswith("resnet") else VIT
    source = "source={use = 'sample-scenes', images = 16, side = 96}"
    return [source, backbone, "batch_size=16", "epochs=2", "precision=32-true", "optimizer.warmup_epochs=0", *sets]


@pytest.mark.parametrize("name", LENGTHS)
def test_each_trains_two_steps(name, installed, tmp_path):
    text = read(name, *shrunk(name))
    plan = planned(text, installed)
    result = trainer.train(plan, text, installed, RunFolder(tmp_path), RunOptions(accelerator="cpu", workers=0))
    assert (result.state, result.step) == ("finished", 2)
    assert {item.name for item in plan.objectives} <= {term.partition(".")[0] for term in result.terms}
    assert all(torch.tensor(value).isfinite() for value in result.terms.values())
    first, second = (checkpoint.load(tmp_path / "checkpoints" / f"step-{step:08d}.pt")["model"] for step in (1, 2))
    moved = {key for key in first if "running_" not in key and not torch.equal(first[key], second[key])}
    networks = {"online", "target"} if plan.has("target") else {"online"}
    assert all(any(key.startswith(f"{network}.backbone") for key in moved) for network in networks)


# --------------------------------------------------------------------------------------------- commands


def test_nested_names_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert listed["lightly/simclr"]["summary"] == "SimCLR, ResNet-50, ImageNet, 1000 epochs"
    for name in ("lightly/simclr", "simclr", "recipes/lightly/simclr.toml"):
        assert main(["recipes", name]) == 0
        assert capsys.readouterr().out == (FOLDER / "simclr.toml").read_text()
    assert main(["check", "lightly/simclr"]) == 5  # data/imagenet does not exist
    assert "data/imagenet" in capsys.readouterr().err
    sets = [word for item in shrunk("simclr") for word in ("--set", item)]
    assert main(["check", "lightly/simclr", *sets]) == 0
    assert main(["run", "lightly/simclr", *sets, "--accelerator", "cpu", "--workers", "0", "--stop-after", "1"]) == 0
    assert (tmp_path / "runs" / "simclr" / "full-s0" / "recipe.toml").is_file()
