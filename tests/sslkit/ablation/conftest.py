"""Arms and ablations of this suite's own plugin."""

from __future__ import annotations

import pytest

from sslkit.ablation.arm_planner import make_arms
from sslkit.ablation.plan import plan_ablation
from sslkit.ablation.requests import ArmRequests
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.training import trainer
from sslkit.training.options import RunOptions

OBJECTIVES = """
[objectives.contrast]
weight = 0.5
[objectives.parts]
inputs = { part = "scene" }
"""
PROBE = """
[probes.nearest]
size = 16
min_side = 1
test_share = 0.5
"""


@pytest.fixture
def make(plugins, recipe_text):
    """Return a function that makes the arms of a recipe with three objectives."""

    def make(text=recipe_text + OBJECTIVES, **requests):
        full = recipe_file.parse(text, "dots", "dots.toml", requests.pop("sets", ()))
        parsed, problems = recipe_file.check_structure(full)
        assert not problems, problems
        plan, problems = make_plan(parsed, plugins)
        assert not problems, problems
        return make_arms(full, plan, plugins, ArmRequests(**requests))

    return make


@pytest.fixture
def ablation(plugins, recipe_text, tmp_path):
    """Return a function that plans an ablation of a recipe with a probe."""

    def ablation(*sets, seeds=(3, 4), text=recipe_text + PROBE, **requests):
        full = recipe_file.parse(text, "dots", "dots.toml", sets)
        parsed, problems = recipe_file.check_structure(full)
        assert not problems, problems
        plan, _ = make_plan(parsed, plugins)
        arms = make_arms(full, plan, plugins, ArmRequests(**requests))
        return plan_ablation(full, arms, seeds[0], len(seeds), tmp_path / "runs", plugins)

    return ablation


@pytest.fixture
def train(plugins):
    """Return a function that trains a planned run in this process."""

    def train(run, **options):
        text = recipe_file.read(run.folder.recipe)
        options = RunOptions(**{"workers": 0, "accelerator": "cpu", **options})
        return trainer.train(run.plan, text, plugins, run.folder, options)

    return train
