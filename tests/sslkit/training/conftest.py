"""A train step over this suite's own plugin."""

from __future__ import annotations

from typing import Any

import pytest

from sslkit.data.opening import prepare
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.setup import set_up
from sslkit.training.step import TrainStep


@pytest.fixture
def train_step(plugins, recipe_text) -> Any:
    """Return a function that makes a train step of the fake recipe with overrides."""

    def train_step(*sets: str, **options: Any) -> TrainStep:
        recipe, problems = recipe_file.check_structure(recipe_file.parse(recipe_text, "dots", "dots.toml", sets))
        assert recipe, problems
        plan, problems = make_plan(recipe, plugins)
        assert plan, problems
        run_options = RunOptions(**{"accelerator": "cpu", "workers": 0, "monitor_every": 2, **options})
        made = TrainStep(set_up(plan, run_options, launch(plan, run_options), *prepare(plan)))
        made.network.train()
        return made

    return train_step
