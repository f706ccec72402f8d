"""A recipe of this suite's own plugin, to be examined."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sslkit.data.opening import prepare
from sslkit.doctor.advice import Measurements
from sslkit.doctor.clock import Clock
from sslkit.doctor.steps import TimedSteps
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan
from sslkit.training.hardware import launch
from sslkit.training.options import RunOptions
from sslkit.training.setup import set_up
from sslkit.training.step import TrainStep


@pytest.fixture
def planned(plugins, recipe_text) -> Any:
    """Return a function that parses and plans the fake recipe with overrides."""

    def planned(*sets: str, more: str = "") -> Any:
        text = recipe_file.parse(recipe_text + more, "dots", "dots.toml", sets)
        recipe, problems = recipe_file.check_structure(text)
        assert recipe, problems
        plan, problems = make_plan(recipe, plugins)
        assert plan, problems
        return text, plan

    return planned


@pytest.fixture
def stepper(planned) -> Any:
    """Return a function that makes a training step, timed or plain."""

    def stepper(*sets: str, timed: bool = True, **options: Any) -> TrainStep:
        _, plan = planned(*sets)
        options = RunOptions(**{"accelerator": "cpu", "workers": 0, "monitor_every": 0, **options})
        fabric = launch(plan, options)
        setup = set_up(plan, options, fabric, *prepare(plan))
        train_step = TimedSteps(Clock(torch.device("cpu")), setup) if timed else TrainStep(setup)
        train_step.network.train()
        return train_step

    return stepper


@pytest.fixture
def measure() -> Any:
    """Return a function that makes measurements: a GPU that could take 400 images/s, and a loader that loads 200."""

    def measure(**changes: Any) -> Measurements:
        values = {
            "cores": 16, "on_cpu": False, "threads": 1, "world_size": 1, "workers": 4, "batch_size": 100,
            "busy": 0.25, "waiting": 0.25, "networks": 0.2, "per_image": 0.02, "decoding": 0.01, "loader_rate": 200.0,
            "decoded_gb": 10.0, "cache_gb": 0.0, "free_gb": 100.0, "epochs": 10.0, "precision": "32-true",
            "precisions": {"32-true": 1.0, "bf16-mixed": 1.0}, "monitor_every": 50, "monitored": 0.0,
        }  # fmt: skip
        return Measurements(**(values | changes))

    return measure
