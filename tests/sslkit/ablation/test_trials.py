from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from sslkit.ablation import trials
from sslkit.ablation.arms import Asked, arms
from sslkit.ablation.estimate import estimate
from sslkit.errors import DataError, RecipeError, UsageError
from sslkit.planning import recipe
from sslkit.planning.planner import make_plan
from sslkit.training import trainer
from sslkit.training.options import RunOptions

PROBED = """
[probes.nearest]
size = 16
min_side = 1
test_share = 0.5
"""


@pytest.fixture
def ablation(plugins, recipe_text, tmp_path):
    def ablation(*sets, seeds=(3, 4), text=recipe_text + PROBED, **asked):
        full = recipe.parse(text, "dots", "dots.toml", sets)
        read, problems = recipe.structure(full)
        assert not problems, problems
        plan, _ = make_plan(read, plugins)
        return trials.make(
            full, arms(full, plan, plugins, Asked(**asked)), seeds[0], len(seeds), tmp_path / "runs", plugins
        )

    return ablation


@pytest.fixture
def train(plugins):
    def train(run, **options):
        text = recipe.read(run.folder.recipe)
        options = RunOptions(**{"workers": 0, "accelerator": "cpu", **options})
        return trainer.train(run.plan, text, plugins, run.folder, options)

    return train


def test_runs_are_seed_by_seed_in_folders_named_after_their_arms(ablation, tmp_path):
    made = ablation(vary=["backbone.width=4"])
    assert [(run.arm, run.seed, run.folder.path.name) for run in made.runs()] == [
        ("full", 3, "full-s3"), ("backbone.width=4", 3, "backbone.width=4-s3"),
        ("full", 4, "full-s4"), ("backbone.width=4", 4, "backbone.width=4-s4"),
    ]  # fmt: skip
    assert {run.state for run in made.runs()} == {"waiting"}
    assert made.variants[1].changes == {"backbone.width": (8, 4)}
    assert made.variants[1].gflops < made.variants[0].gflops


def test_arms_of_one_recipe_are_run_once_and_said(ablation):
    made = ablation(vary=["backbone.width=8,4,4", "objectives.alike.weight=1.0"])
    assert [variant.arm.name for variant in made.variants] == ["full", "backbone.width=4"]
    assert made.notes == [
        "backbone.width=8 (--vary backbone.width=8,4,4) resolves to the same recipe as full: run once",
        "objectives.alike.weight=1.0 (--vary objectives.alike.weight=1.0) resolves to the same recipe as full: run once",
    ]


def test_a_run_is_found_again_by_what_it_is_and_not_by_its_name(ablation, train):
    made = ablation(vary=["backbone.width=4"], seeds=(3,))
    trials.write_recipes(made)
    train(made.variants[1].runs[0])
    again = ablation("backbone.width=4", vary=["backbone.width=6"], seeds=(3,))
    assert again.variants[0].runs[0].folder.path.name == "backbone.width=4-s3"
    assert again.variants[0].runs[0].state == "finished"
    assert again.variants[1].runs[0].state == "waiting"


def test_a_folder_that_another_recipe_has_taken_is_left_alone(ablation):
    trials.write_recipes(ablation(vary=["backbone.width=4"], seeds=(3,)))
    changed = ablation("optimizer.base_lr=0.25", vary=["backbone.width=4"], seeds=(3,))
    names = [run.folder.path.name for run in changed.runs()]
    assert names[0].startswith("full-")
    assert names[0] != "full-s3"
    assert names[0].endswith("-s3")


def test_the_written_recipe_is_the_one_that_is_trained(ablation, plugins, recipe_text):
    made = ablation(drop=["contrast"], text=recipe_text + "[objectives.contrast]\n", seeds=(5,))
    trials.write_recipes(made)
    for run in made.runs():
        read, problems = recipe.structure(recipe.read(run.folder.recipe))
        assert not problems
        plan, problems = make_plan(read, plugins)
        assert not problems
        assert plan.resolved() == run.plan.resolved()
        assert plan.recipe.seed == 5


def test_arms_are_paired_and_their_figures_are_read_back(ablation, train):
    made = ablation(vary=["objectives.alike.weight=0.5"])
    trials.write_recipes(made)
    for run in made.runs():
        train(run)
    found = trials.results(made, "sslkit ablate dots")
    assert found.metrics == ("nearest top1",)
    assert [arm.name for arm in found.arms] == ["full", "objectives.alike.weight=0.5"]
    assert found.varied == ("objectives.alike.weight",)
    full, arm = found.arms
    assert [trial.state for trial in (*full.trials, *arm.trials)] == ["finished"] * 4
    for a, b in zip(full.trials, arm.trials, strict=True):
        assert a.references == b.references, "the same crops, the same random weights"
        assert set(a.references) == {"raw pixels", "random weights"}
        assert a.images_per_s > 0
        assert a.peak_memory > 50e6
    said = json.loads((made.variants[0].runs[0].folder.path / "probes.json").read_text())
    assert full.trials[0].metrics == {"nearest top1": said["trained"]["nearest"]["top1"]}
    assert "torch" in found.versions


def test_runs_with_other_threads_are_noted(ablation, train):
    made = ablation(vary=["objectives.alike.weight=0.5"], seeds=(3,))
    trials.write_recipes(made)
    for run, threads in zip(made.runs(), (1, 2), strict=True):
        torch.set_num_threads(threads)
        train(run)
    notes = trials.results(made, "").notes
    assert notes == ("runs differ in threads: 1, 2; sums are rounded in another order there, also at equal seeds",)


def test_what_stopped_and_what_failed_is_a_hole_with_its_reason(ablation, train):
    made = ablation(vary=["source.broken=[5]"], seeds=(3,))
    trials.write_recipes(made)
    good, bad = made.runs()
    train(good, stop_after=2)
    with pytest.raises(DataError, match="1 of 12 images cannot be used"):
        train(bad)
    found = trials.results(made, "sslkit ablate dots")
    assert [arm.trials[0].state for arm in found.arms] == ["stopped", "failed"]
    assert "1 of 12 images cannot be used" in found.arms[1].trials[0].reason
    assert not found.arms[0].trials[0].metrics
    good.code = -9
    assert (good.state, good.reason) == ("failed", "killed by signal 9")


HOLD = """
import sys
from pathlib import Path
from sslkit.storage.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_running_and_refused_and_free_when_its_process_dies(ablation, train):
    made = ablation(vary=["backbone.width=4"], seeds=(3,))
    trials.write_recipes(made)
    run = made.variants[0].runs[0]
    (run.folder.path / "status.json").write_text('{"state": "running"}')
    command = [sys.executable, "-c", HOLD, str(run.folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert run.state == "running"
        with pytest.raises(UsageError, match=f"is in use by process {other.pid} on"):
            train(run)
        other.kill()
    assert run.state == "stopped"
    assert train(run).state == "finished"


def test_every_problem_of_every_arm_is_told_at_once(ablation):
    with pytest.raises(RecipeError) as caught:
        ablation(vary=["backbone.width=0", "backbone.multiple=5"], swap=["sampler=pair"], seeds=(3,))
    said = str(caught.value)
    assert "2 of 4 arms cannot be trained" in said
    assert "dots.toml (--vary backbone.width=0)" in said
    assert "width = 0: must be greater than or equal to 1" in said
    assert "cannot take views of 24 x 24 pixels" in said


def test_estimates_scale_with_operations_and_count_what_is_kept(ablation):
    made = ablation(vary=["backbone.width=16"], seeds=(3,))
    small, large = estimate(made.variants)
    assert small.images == large.images == 2 * 3 * 4
    assert large.hours / small.hours == pytest.approx(large.flops / small.flops)
    weights = sum(p.numel() for p in made.variants[0].plan.backbone.make().parameters())
    assert small.disk > 2 * 3 * 4 * weights, "two checkpoints of weights, target and momentum"
    assert large.memory > small.memory > 0


def test_without_data_there_is_no_time_to_tell(ablation):
    made = ablation("source.absent=true", vary=["backbone.width=16"], seeds=(3,))
    assert [(item.images, item.hours) for item in estimate(made.variants)] == [(None, None)] * 2
