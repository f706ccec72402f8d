"""Every objective trains in a tiny recipe, with the heads of its method."""

from __future__ import annotations

import pytest
import torch

from sslkit.networks.cost import measure
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions
from sslkit_lightly import sslkit_heads, sslkit_objectives

RESNET = 'use = "resnet18"\nwidth = 8'
VIT = 'use = "vit-small"\nimage_size = 32'
PREDICTOR = '\npredictor = { use = "mlp", hidden = 16 }'
HEADS = {
    "dino": 'projector = { use = "lightly/dino", hidden = 16, bottleneck = 8, out = 24 }',
    "simsiam": 'projector = { use = "lightly/simsiam", hidden = 16, out = 8 }\n'
    'predictor = { use = "lightly/simsiam-predictor", hidden = 4 }',
    "nnclr": 'projector = { use = "lightly/nnclr", hidden = 16, out = 8 }\n'
    'predictor = { use = "lightly/nnclr-predictor", hidden = 16 }',
    "moco-v3": 'projector = { use = "lightly/moco", hidden = 16, out = 8, layers = 3, batch_norm = true }\n'
    'predictor = { use = "lightly/moco", hidden = 16, out = 8, batch_norm = true }',
    "byol": 'projector = { use = "heads/mlp", hidden = 16, out = 8 }' + PREDICTOR,
}
OPTIONS = {
    "moco": "queue = 16", "nnclr": "queue = 16", "densecl": "queue = 64", "swav": "prototypes = 5\nqueue = 16",
    "msn": "prototypes = 5", "pmsn": "prototypes = 5", "directclr": "size = 16", "w-mse": "size = 16\neps = 0.1",
    "sigreg": "directions = 16", "lejepa": "directions = 16", "visreg": "directions = 16",
}  # fmt: skip
MULTI_CROP = {"dino", "swav", "msn", "pmsn", "lejepa", "visreg"}
"""Objectives that read `global`, and `local` if the sampler gives it."""
NAMES = [cls.name for cls in sslkit_objectives()]


def head(name):
    """Return lightly's head of the method, or SimCLR's if there is none."""
    own = name if name in {cls.name for cls in sslkit_heads()} else "simclr"
    if name == "pmsn":
        own = "msn"
    return HEADS.get(name, f'projector = {{ use = "lightly/{own}", hidden = 16, out = 8 }}')


def cell(name, sampler, backbone=RESNET, inputs=""):
    groups = ["global", "local"] if sampler == "multi-crop" else ["scene"]
    views = "".join(f"[[augment.{group}]]\nsize = 32\n" for group in groups)
    return f"""
steps = 2
batch_size = 4
[source]
use = "sample-scenes"
images = 8
side = 96
[sampler]
use = "{sampler}"
{"local_crops = 2" if sampler == "multi-crop" else ""}
[backbone]
{backbone}
[heads.main]
{head(name)}
[objectives.only]
use = "lightly/{name}"
{OPTIONS.get(name, "")}
{inputs}
{views}
[optimizer]
use = "sgd"
base_lr = 0.1
"""


def planned(toml, installed):
    text = recipe_file.parse(toml, "cell", "cell.toml")
    table, problems = recipe_file.check_structure(text)
    assert not problems, recipe_file.format_problems(text, problems)
    plan, problems = make_plan(table, installed)
    assert not problems, recipe_file.format_problems(text, problems)
    return plan, text


def test_the_matrix_is_complete():
    assert len(NAMES) == 28
    assert set(NAMES) > MULTI_CROP
    used = "".join(head(name) for name in NAMES)
    assert all(f'"lightly/{cls.name}"' in used for cls in sslkit_heads())


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_trains(name, installed, tmp_path):
    plan, text = planned(cell(name, "multi-crop" if name in MULTI_CROP else "two-views"), installed)
    assert measure(plan).flops > 0
    options = RunOptions(accelerator="cpu", workers=0)
    result = trainer.train(plan, text, installed, RunFolder(tmp_path / "run"), options)
    assert (result.state, result.step) == ("finished", 2)
    assert all(torch.tensor(value).isfinite() for value in result.terms.values())


@pytest.mark.parametrize("name", sorted(MULTI_CROP))
def test_local_views_are_optional(name, installed):
    plan, _ = planned(cell(name, "two-views", inputs='inputs = { global = "scene" }'), installed)
    assert plan.groups == {"scene": 2}
    assert "m" not in plan.objectives[0].dims
    assert measure(plan).flops > 0


@pytest.mark.parametrize("name", ["byol", "dino", "vicreg", "moco"])
def test_other_backbones_work_as_well(name, installed):
    plan, _ = planned(cell(name, "multi-crop" if name in MULTI_CROP else "two-views", VIT), installed)
    assert measure(plan).flops > 0
