"""The estimated cost of runs."""

from __future__ import annotations

import pytest
import torch

from sslkit.ablation import estimate
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan


@pytest.fixture
def plan(plugins, recipe_text):
    read, _ = recipe_file.check_structure(recipe_file.parse(recipe_text, "dots", "dots.toml", ["batch_size=48"]))
    return make_plan(read, plugins)[0]


@pytest.mark.parametrize(
    ("per_image", "timed", "expected"),
    [(0.0, [4, 16, 48], 0.1 / 48), (0.1, [4, 16], 0.1 + 0.1 / 16), (1.0, [4], 1 + 0.1 / 4)],
)
def test_more_images_are_timed_until_a_step_is_long_enough(plan, monkeypatch, per_image, timed, expected):
    """A step costs 0.1 s besides what it costs per image."""
    seen = []

    def seconds(step, plan, images, device):
        seen.append(images)
        return 0.1 + per_image * images

    monkeypatch.setattr(estimate, "step_seconds", seconds)
    assert estimate.seconds_per_image(plan) == pytest.approx(expected)
    assert seen == timed


def test_seconds_are_of_real_steps(plan):
    assert 0 < estimate.seconds_per_image(plan) < 1


def test_estimates_scale_with_operations_and_count_checkpoints(ablation):
    planned = ablation(vary=["backbone.width=16"], seeds=(3,))
    small, large = estimate.estimate(planned.variants)
    assert small.images == large.images == 2 * 3 * 4
    assert large.hours / small.hours == pytest.approx(large.flops / small.flops)
    weights = sum(p.numel() for p in planned.variants[0].plan.backbone.make().parameters())
    assert small.disk > 2 * 3 * 4 * weights, "two checkpoints of weights, target and momentum"
    assert large.memory > small.memory > 0


def test_without_data_there_is_no_time_estimate(ablation):
    planned = ablation("source.absent=true", vary=["backbone.width=16"], seeds=(3,))
    assert [(item.images, item.hours) for item in estimate.estimate(planned.variants)] == [(None, None)] * 2


def test_all_arms_are_estimated_as_the_first_one_computes(ablation, trials, monkeypatch):
    planned = ablation("precision=auto", vary=["backbone.width=16"], seeds=(3,))
    trials.seconds = {mode: 1.0 if mode.precision == "bf16-mixed" else 9.0 for mode in [*trials.seconds]}
    seen = []

    def seconds(step, plan, images, device):
        seen.append((plan.recipe.auto_precision, step.layout))
        return 2.0

    monkeypatch.setattr(estimate, "step_seconds", seconds)
    half = [item.memory for item in estimate.estimate(planned.variants)]
    assert seen == [("bf16-mixed", torch.channels_last)]
    full = [item.memory for item in estimate.estimate(ablation(vary=["backbone.width=16"], seeds=(3,)).variants)]
    assert all(small < large for small, large in zip(half, full, strict=True)), "activations of half the size"
    assert len(trials.plans) == 1
