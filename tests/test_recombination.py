"""Objectives of several methods in one recipe: shipped recipes, heads, what `check` refuses, and every pair."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from sslkit import hookimpl
from sslkit.api import Backbone
from sslkit.networks import StepModule
from sslkit.networks.cost import step_batch
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.plugins import Owner, Plugins
from sslkit.storage.run_folder import RunFolder
from sslkit.training import trainer
from sslkit.training.options import RunOptions

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recombination.md").read_text()
MLP = ("projector.hidden=16", "projector.out=8", "predictor.hidden=16")
SMALL = {
    "byol_plus_instances": [f"heads.main.{item}" for item in MLP],
    "univip_moco": [*(f"heads.main.{item}" for item in MLP), "objectives.moco.queue=16"],
    "univip_vicreg": ["heads.main.projector={use = 'lightly/vicreg', hidden = 16, out = 16}"]
    + [f"heads.instances.{item}" for item in MLP],
    "dino_instances": ["heads.main.projector={use = 'lightly/dino', hidden = 16, bottleneck = 8, out = 24}"],
}
"""Recipe -> overrides that make its heads small."""
SHARED = (  # UniVIP's two objectives on VICReg's head
    "heads.main.predictor={use = 'mlp', hidden = 16}",
    "objectives.scene-instance.head=main",
    "objectives.instance-instance.head=main",
)
APART = (  # scene-instance on a head that is not MoCo's
    "heads.own={projector = {use = 'mlp', hidden = 16, out = 6}, predictor = {use = 'mlp', hidden = 16}}",
    "objectives.scene-instance.head=own",
)


def planned(text, plugins):
    table, problems = recipe_file.check_structure(text)
    assert not problems, recipe_file.format_problems(text, problems)
    return make_plan(table, plugins)


def shrunk(name, plugins, *sets):
    """Return a shipped recipe's plan and text, shrunk to eight built-in scenes, small networks and views, two steps."""
    path = ROOT / "recipes" / f"{name}.toml"
    views = recipe_file.read(path).values["augment"]
    sizes = [f"augment.{group}.{place}.size=32" for group in views for place in range(len(views[group]))]
    text = recipe_file.read(path, [
        "source={use = 'sample-scenes', images = 8, side = 96}", "proposals={use = 'random-boxes', min_side = 24}",
        "sampler.min_overlap=32", "sampler.min_side=16", "backbone={use = 'resnet18', width = 8}",
        "batch_size=4", "epochs=1", "precision=32-true", "optimizer.warmup_epochs=0", *sizes, *SMALL[name], *sets,
    ])  # fmt: skip
    plan, problems = planned(text, plugins)
    assert not problems, recipe_file.format_problems(text, problems)
    return plan, text


def stepped(plan, measured=False):
    """Return the step module of a plan and the outcome of its first forward pass on noise."""
    step = StepModule(plan)
    return step, step(step_batch(plan, 4), measured)


# ------------------------------------------------------------------------------------------ the recipes


@pytest.mark.parametrize("name", SMALL)
def test_every_recombined_recipe_trains(name, installed, tmp_path):
    plan, text = shrunk(name, installed)
    options = RunOptions(accelerator="cpu", workers=0)
    result = trainer.train(plan, text, installed, RunFolder(tmp_path / "run"), options)
    assert (result.state, result.step) == ("finished", 2)
    assert {f"{item.name}.loss" for item in plan.objectives} <= result.terms.keys()
    assert all(torch.tensor(value).isfinite() for value in result.terms.values())


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_is_the_weighted_sum_and_every_objective_reaches_the_backbone(name, installed):
    plan, _ = shrunk(name, installed)
    _, outcome = stepped(plan, measured=True)
    weights = {item.name: item.weight for item in plan.objectives}
    total = sum(weights[term.partition(".")[0]] * value for term, value in outcome.terms.items())
    torch.testing.assert_close(outcome.loss.detach(), total)
    assert all(outcome.measured[f"{name}.gradient_norm"] > 0 for name in weights)


def test_instances_are_dinos_local_crops(installed):
    plan, _ = shrunk("dino_instances", installed)
    rows = {parameter: str(row) for parameter, row in plan.objectives[0].rows.items()}
    assert rows == {
        "z": "online.projection.scene",
        "t": "target.projection.scene",
        "local": "online.projection.instance",
    }
    assert ("instance", "target") not in plan.views


# ------------------------------------------------------------------------------------------------ heads


def gradients(plan):
    """Return a mapping from head to the norm of the loss's gradient on its projector."""
    step, outcome = stepped(plan)
    outcome.loss.backward()
    norms = {}
    for name, head in step.online.projectors.items():
        grads = [p.grad for p in head.parameters() if p.grad is not None]
        norms[name] = float(torch.stack([grad.norm() for grad in grads]).norm()) if grads else 0.0
    return norms


@pytest.mark.parametrize("silent", ["moco", "scene-instance"])
def test_a_shared_head_is_trained_by_both_and_two_heads_by_one_each(silent, installed):
    mute = f"objectives.{silent}.weight=0"
    assert gradients(shrunk("univip_moco", installed, mute)[0])["main"] > 0
    apart = gradients(shrunk("univip_moco", installed, mute, *APART)[0])
    assert {name: norm > 0 for name, norm in apart.items()} == {"main": silent != "moco", "own": silent == "moco"}


def test_a_shared_head_is_one_set_of_parameters_and_two_heads_are_two(installed):
    shared, apart = (StepModule(shrunk("univip_moco", installed, *sets)[0]) for sets in ((), APART))
    assert [[*step.online.projectors] for step in (shared, apart)] == [["main"], ["main", "own"]]
    assert [[*step.online.predictors] for step in (shared, apart)] == [["main"], ["own"]]  # MoCo reads no prediction
    assert [[*step.target.projectors] for step in (shared, apart)] == [["main"], ["main", "own"]]
    first, second = (count(apart.online.projectors[name]) for name in ("main", "own"))
    assert count(apart.online.projectors) == first + second
    assert count(shared.online.projectors) == first


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("sets", "online", "target"), [((), ["instances", "main"], ["instances"]), (SHARED, ["main"], ["main"])]
)
def test_instance_instance_on_its_own_head_or_on_vicregs(sets, online, target, installed):
    plan, _ = shrunk("univip_vicreg", installed, *sets)
    step, outcome = stepped(plan, measured=True)
    assert sorted(step.online.projectors) == online
    assert sorted(step.target.projectors) == target
    assert outcome.loss.isfinite()
    assert all(outcome.measured[f"{item.name}.gradient_norm"] > 0 for item in plan.objectives)


# --------------------------------------------------------------------------------------------- refusals

REFUSALS = re.findall(r"^\| `sslkit check ([^`]+)` \| `([^`]+)` \|$", PAGE, re.MULTILINE)


def test_the_page_has_refusals():
    assert len(REFUSALS) == PAGE.count("| `sslkit check ") >= 12


@pytest.mark.parametrize(("command", "message"), REFUSALS, ids=lambda item: item if " " not in item else "")
def test_check_refuses_in_the_pages_words(command, message, installed):
    name, *options = shlex.split(command)
    assert set(options[::2]) == {"--set"}
    text = recipe_file.read(ROOT / "recipes" / f"{name}.toml", options[1::2])
    plan, problems = planned(text, installed)
    assert plan is None
    assert message in recipe_file.format_problems(text, problems)


# --------------------------------------------------------------------------------------------- every pair


class Small(Backbone):
    """Two convolutions, because the pairs test only the wiring."""

    name = "small"
    gives: ClassVar = {"features": "f", "map": "f h w"}

    def __init__(self):
        super().__init__()
        self.dim = 16
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))

    def forward(self, x):
        y = self.net(x)
        return {"features": y.mean((2, 3)), "map": y}


PAIR = """
steps = 2
batch_size = 4
source = { use = "sample-scenes" }
proposals = { use = "random-boxes" }
sampler = { use = "overlapping-scenes" }
backbone = { use = "small" }
augment.scene = [{ size = 24 }]
augment.instance = [{ size = 16 }]
optimizer = { use = "sgd", base_lr = 0.1 }

[heads.main]
projector = { use = "mlp", hidden = 16, out = 8 }
predictor = { use = "mlp", hidden = 16 }

[heads.places]
projector = { use = "lightly/densecl", hidden = 16, out = 8 }

[objectives.instance-instance]
"""
OPTIONS = {
    "moco": "queue = 16", "nnclr": "queue = 16", "densecl": "queue = 64", "swav": "prototypes = 5",
    "msn": "prototypes = 5", "pmsn": "prototypes = 5", "directclr": "size = 16", "w-mse": "size = 16\neps = 0.1",
    "sigreg": "directions = 16", "lejepa": "directions = 16", "visreg": "directions = 16",
}  # fmt: skip
"""Options that work with four images and small heads."""
MULTI_CROP = dict.fromkeys(
    ("dino", "swav", "msn", "pmsn", "lejepa", "visreg"), 'inputs = { global = "scene", local = "instance" }'
)
DENSE = dict.fromkeys(("vicregl", "densecl"), 'head = "places"')


@pytest.fixture(scope="module")
def everything():
    """Return all installed plugins and the small backbone."""
    plugins = Plugins.load()
    plugins.add(Owner("here", "here", "0"), SimpleNamespace(sslkit_backbones=hookimpl(lambda: [Small])))
    return plugins


def pair(id_, plugins, more=""):
    options = OPTIONS.get(id_.partition("/")[2], "")
    toml = f'{PAIR}[objectives.other]\nuse = "{id_}"\n{options}\n{more}\n'
    return planned(recipe_file.parse(toml, "pair", "pair.toml"), plugins)


def check_that_it_trains(plan):
    """Run two forward and backward passes; both objectives have a gradient on the backbone."""
    torch.manual_seed(0)
    step = StepModule(plan)
    for measured in (True, False):
        outcome = step(step_batch(plan, 4), measured)
        outcome.loss.backward()
        assert outcome.loss.isfinite()
        step.update_target(0.9)
        step.after_step(1, 0.5)
        if measured:
            assert all(outcome.measured[f"{item.name}.gradient_norm"] > 0 for item in plan.objectives)


def test_every_objective_beside_instance_instance_trains_or_is_refused_with_a_reason(everything):
    """Pairs on overlapping scenes, with one head for both objectives."""
    ids = [
        id_ for id_, item in everything.components["objective"].items() if item.owner.distribution in ("sslkit", "here")
    ]
    trained, refused = [], {}
    for id_ in ids:
        plan, problems = pair(id_, everything)
        if problems:
            refused[id_.partition("/")[2]] = problems[0]
            continue
        check_that_it_trains(plan)
        trained.append(id_)
    assert (len(ids), len(trained), len(refused)) == (31, 23, 8)
    assert refused.keys() == MULTI_CROP.keys() | DENSE.keys()
    assert all("gives no view group 'global'" in refused[name].what for name in MULTI_CROP)
    assert all("has 5 axes, but the actual row has 3" in refused[name].what for name in DENSE)


@pytest.mark.parametrize(("name", "more"), [*MULTI_CROP.items(), *DENSE.items()])
def test_refused_pairs_train_with_other_inputs_or_another_head(name, more, everything):
    plan, problems = pair(f"lightly/{name}", everything, more)
    assert not problems
    check_that_it_trains(plan)
