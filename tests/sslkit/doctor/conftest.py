"""A recipe over this suite's own plugin, to be examined."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sslkit.data.opening import prepare
from sslkit.doctor.advice import Measurements
from sslkit.doctor.clock import Clock
from sslkit.doctor.steps import Timed
from sslkit.planning import recipe
from sslkit.planning.planner import make_plan
from sslkit.training.hardware import fabric_of
from sslkit.training.options import RunOptions
from sslkit.training.step import Stepper


@pytest.fixture
def planned(plugins, recipe_text) -> Any:
    """Return a function that makes the text and the plan of the fake recipe with overrides."""

    def planned(*sets: str, more: str = "") -> Any:
        text = recipe.parse(recipe_text + more, "dots", "dots.toml", sets)
        made, problems = recipe.structure(text)
        assert made, problems
        plan, problems = make_plan(made, plugins)
        assert plan, problems
        return text, plan

    return planned


@pytest.fixture
def stepper(planned) -> Any:
    """Return a function that makes a stepper, timed or plain, ready to step."""

    def stepper(*sets: str, timed: bool = True, **options: Any) -> Stepper:
        _, plan = planned(*sets)
        options = RunOptions(**{"accelerator": "cpu", "workers": 0, "monitor_every": 0, **options})
        fabric = fabric_of(plan, options)
        given = (plan, options, fabric, *prepare(plan))
        made = Timed(Clock(torch.device("cpu")), *given) if timed else Stepper(*given)
        made.network.train()
        return made

    return stepper


@pytest.fixture
def figures() -> Any:
    """Return a function that makes figures: a GPU that could take 400 photos/s, and a loader that makes 200."""

    def figures(**other: Any) -> Measurements:
        given = {
            "cores": 16, "on_cpu": False, "threads": 1, "processes": 1, "workers": 4, "batch_size": 100,
            "busy": 0.25, "waiting": 0.25, "networks": 0.2, "photo": 0.02, "decoding": 0.01, "loader": 200.0,
            "decoded_gb": 10.0, "cache_gb": 0.0, "free_gb": 100.0, "epochs": 10.0, "precision": "32-true",
            "precisions": {"32-true": 1.0, "bf16-mixed": 1.0}, "monitor_every": 50, "monitored": 0.0,
        }  # fmt: skip
        return Measurements(**(given | other))

    return figures
