"""The shipped recipes, and every cell of objective x sampler x backbone."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest

from sslkit.networks.cost import measure
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.storage import checkpoint, weights
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions

ROOT = Path(__file__).parent.parent
NAMES = (
    *("byol_coco", "byol_imagenet", "quickstart", "univip_coco", "univip_coco_plus", "univip_imagenet"),
    *("byol_plus_instances", "dino_instances", "univip_moco", "univip_vicreg"),
)


def load(name, *sets):
    return recipe_file.read(ROOT / "recipes" / f"{name}.toml", sets)


def planned(text, plugins):
    table, problems = recipe_file.check_structure(text)
    assert not problems, recipe_file.format_problems(text, problems)
    return make_plan(table, plugins)


def test_these_recipes_are_shipped():
    assert set(NAMES) <= set(recipe_file.shipped_recipes())


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipes_have_no_problems_and_start_with_their_command(name, installed):
    text = load(name)
    plan, problems = planned(text, installed)
    assert not problems, recipe_file.format_problems(text, problems)
    assert (ROOT / "recipes" / f"{name}.toml").read_text().startswith(f"# sslkit run recipes/{name}.toml\n")
    assert plan.recipe.summary


@pytest.mark.parametrize(
    ("name", "lr", "momentum"),
    [
        ("univip_coco", 0.4, 0.99),
        ("byol_coco", 0.4, 0.99),
        ("univip_imagenet", 4.8, 0.99),
        ("byol_imagenet", 4.8, 0.99),
    ],
)
def test_peak_learning_rates_are_those_of_the_protocols(name, lr, momentum, installed):
    plan, _ = planned(load(name), installed)
    assert plan.recipe.optimizer.lr(plan.recipe.batch_size) == pytest.approx(lr)
    assert plan.recipe.target.momentum == momentum


def without(name, installed, *dropped):
    text = load(name)
    for objective in dropped:
        del text.values["objectives"][objective]
    plan, problems = planned(text, installed)
    assert not problems
    return plan


def test_dropping_objectives_drops_their_crops_and_their_cost(installed):
    full = without("univip_coco", installed)
    scenes = without("univip_coco", installed, "scene-instance", "instance-instance")
    assert full.groups == {"scene": 2, "instance": 4}
    assert scenes.groups == {"scene": 2}
    assert "no objective reads view group 'instance': it is not cropped" in scenes.notes
    byol, _ = planned(load("byol_coco"), installed)
    assert measure(scenes).flops == measure(byol).flops
    # The online network processes 1.37 times BYOL's pixels, and so the cost is 1.37 times BYOL's, except for the heads.
    assert measure(full).flops / measure(scenes).flops == pytest.approx(1 + 4 * 96**2 / (2 * 224**2), abs=0.03)


def test_without_instance_instance_the_target_sees_no_instances(installed):
    plan = without("univip_coco", installed, "instance-instance")
    assert ("instance", "online") in plan.views
    assert ("instance", "target") not in plan.views


def test_no_target_network_without_an_objective_that_reads_it(plugins, recipe_text):
    text = recipe_text.replace("[objectives.alike]", '[objectives.parts]\ninputs = { part = "scene" }')
    plan, problems = planned(recipe_file.parse(text, "x", "x.toml"), plugins)
    assert not problems
    both, _ = planned(recipe_file.parse(recipe_text, "x", "x.toml"), plugins)
    assert measure(plan).target_parameters == 0
    assert measure(both).target_parameters > 0
    assert measure(plan).flops < measure(both).flops


# ------------------------------------------------------------------------------------------- the matrix

OBJECTIVES = ("univip/scene-scene", "univip/scene-instance", "univip/instance-instance")
SAMPLERS = ("images/two-views", "images/multi-crop", "univip/overlapping-scenes")
BACKBONES = {
    "torchvision/resnet18": "", "torchvision/resnet34": "", "torchvision/resnet50": "", "torchvision/resnet101": "",
    "torchvision/small-resnet": "", "torchvision/convnext-tiny": "",
    "torchvision/vit-small": "image_size = 32", "torchvision/vit-base": "image_size = 32",
    "timm/timm": 'model = "resnet10t"',
}  # fmt: skip
LARGE = {f"torchvision/{name}" for name in ("resnet34", "resnet50", "resnet101", "convnext-tiny", "vit-base")}
"""Each trains with one objective, which reads scenes and instances; with the others it is planned."""
CELLS = list(itertools.product(OBJECTIVES, SAMPLERS, BACKBONES))
REFUSED = {
    (objective, sampler)
    for objective in OBJECTIVES
    for sampler in ("images/two-views", "images/multi-crop")
    if (objective, sampler) != ("univip/scene-scene", "images/two-views")
}
"""Refused unless inputs are rebound: these samplers give no instances, or no scenes."""


def cell(objective, sampler, backbone):
    groups = {"images/two-views": ["scene"], "images/multi-crop": ["global", "local"]}.get(
        sampler, ["scene", "instance"]
    )
    proposals = '[proposals]\nuse = "random-boxes"\nmin_side = 24\n' if sampler == "univip/overlapping-scenes" else ""
    views = "".join(f"[[augment.{group}]]\nsize = 32\n" for group in groups)
    return f"""
steps = 2
batch_size = 4
[source]
use = "sample-scenes"
images = 8
side = 96
{proposals}
[sampler]
use = "{sampler}"
[backbone]
use = "{backbone}"
{BACKBONES[backbone]}
[heads.main]
projector = {{ use = "mlp", hidden = 16, out = 8 }}
predictor = {{ use = "mlp", hidden = 16 }}
[objectives.only]
use = "{objective}"
{views}
[optimizer]
use = "sgd"
base_lr = 0.1
"""


def test_the_matrix_contains_every_component(installed):
    known = installed.components
    ours = [set(OBJECTIVES), set(SAMPLERS), set(BACKBONES)]
    registered = [
        {
            id_
            for id_, item in known[kind].items()
            if item.owner.distribution == "sslkit" and item.owner.plugin != "lightly"
        }
        for kind in ("objective", "sampler", "backbone")
    ]
    assert registered == ours
    assert len(CELLS) == 81
    assert len(REFUSED) * len(BACKBONES) == 45


@pytest.mark.parametrize(("objective", "sampler", "backbone"), CELLS)
def test_every_cell_trains_or_is_refused_with_a_reason(objective, sampler, backbone, installed, tmp_path, monkeypatch):
    text = recipe_file.parse(cell(objective, sampler, backbone), "cell", "cell.toml")
    plan, problems = planned(text, installed)
    if (objective, sampler) in REFUSED:
        assert plan is None
        assert all("gives no view group" in item.what and "write" in item.instead for item in problems)
        return
    assert not problems, recipe_file.format_problems(text, problems)
    if backbone in LARGE and objective != "univip/scene-instance":
        return
    options = RunOptions(accelerator="cpu", workers=0)
    for module, name in ((checkpoint, "add"), (weights, "save")):  # a large network's checkpoint is a gigabyte
        monkeypatch.setattr(module, name, lambda *_: tmp_path)
    result = trainer.train(plan, text, installed, RunFolder(tmp_path / "run"), options)
    assert (result.state, result.step) == ("finished", 2)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rebound_inputs_make_any_objective_work_with_any_sampler(objective, installed):
    text = cell(objective, "images/multi-crop", "torchvision/resnet18")
    text = text.replace(
        f'use = "{objective}"', f'use = "{objective}"\ninputs = {{ scene = "global", instance = "local" }}'
    )
    if objective == "univip/scene-scene":
        text = text.replace(', instance = "local"', "")
    plan, problems = planned(recipe_file.parse(text, "cell", "cell.toml"), installed)
    assert not problems
    assert set(plan.groups) <= {"global", "local"}


def test_every_recipe_is_listed():
    """Recipes in `recipes/` are listed in the README, those in `recipes/lightly/` in docs/lightly.md."""
    readme, lightly = ((ROOT / page).read_text() for page in ("README.md", "docs/lightly.md"))
    shipped = recipe_file.shipped_recipes()
    assert {name for name in shipped if "/" not in name} == set(NAMES)
    assert {name.partition("/")[0] for name in shipped if "/" in name} <= {"lightly"}
    assert not [name for name in shipped if f"recipes/{name}.toml" not in (lightly if "/" in name else readme)]


def test_recipes_are_toml_without_inheritance():
    for name in NAMES:
        values = tomllib.loads((ROOT / "recipes" / f"{name}.toml").read_text())
        assert not {"extends", "base", "_base_"} & values.keys()
