"""Arms at seeds, their folders and their states."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sslkit.errors import RecipeError, UsageError
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan


def test_runs_are_seed_by_seed_in_folders_named_after_their_arms(ablation, tmp_path):
    planned = ablation(vary=["backbone.width=4"])
    assert [(run.arm, run.seed, run.folder.path.name) for run in planned.runs()] == [
        ("full", 3, "full-s3"), ("backbone.width=4", 3, "backbone.width=4-s3"),
        ("full", 4, "full-s4"), ("backbone.width=4", 4, "backbone.width=4-s4"),
    ]  # fmt: skip
    assert {run.state for run in planned.runs()} == {"waiting"}
    assert planned.variants[1].changes == {"backbone.width": (8, 4)}
    assert planned.variants[1].gflops < planned.variants[0].gflops


def test_arms_of_one_recipe_are_run_once_and_noted(ablation):
    planned = ablation(vary=["backbone.width=8,4,4", "objectives.alike.weight=1.0"])
    assert [variant.arm.name for variant in planned.variants] == ["full", "backbone.width=4"]
    assert planned.notes == [
        "backbone.width=8 (--vary backbone.width=8,4,4) resolves to the same recipe as full: run once",
        "objectives.alike.weight=1.0 (--vary objectives.alike.weight=1.0) resolves to the same recipe as full: run once",
    ]


def test_a_run_is_found_again_by_its_recipe_and_not_by_its_name(ablation, train):
    planned = ablation(vary=["backbone.width=4"], seeds=(3,))
    planned.write_recipes()
    train(planned.variants[1].runs[0])
    again = ablation("backbone.width=4", vary=["backbone.width=6"], seeds=(3,))
    assert again.variants[0].runs[0].folder.path.name == "backbone.width=4-s3"
    assert again.variants[0].runs[0].state == "finished"
    assert again.variants[1].runs[0].state == "waiting"


def test_the_folder_of_another_recipe_is_not_used(ablation):
    ablation(vary=["backbone.width=4"], seeds=(3,)).write_recipes()
    changed = ablation("optimizer.base_lr=0.25", vary=["backbone.width=4"], seeds=(3,))
    names = [run.folder.path.name for run in changed.runs()]
    assert names[0].startswith("full-")
    assert names[0] != "full-s3"
    assert names[0].endswith("-s3")


def test_the_written_recipe_is_the_one_that_is_trained(ablation, plugins, recipe_text):
    planned = ablation(drop=["contrast"], text=recipe_text + "[objectives.contrast]\n", seeds=(5,))
    planned.write_recipes()
    for run in planned.runs():
        recipe, problems = recipe_file.check_structure(recipe_file.read(run.folder.recipe))
        assert not problems
        plan, problems = make_plan(recipe, plugins)
        assert not problems
        assert plan.resolved() == run.plan.resolved()
        assert plan.recipe.seed == 5


LOCK = """
import sys
from pathlib import Path
from sslkit.storage.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_running_and_refused_and_free_when_its_process_dies(ablation, train):
    planned = ablation(vary=["backbone.width=4"], seeds=(3,))
    planned.write_recipes()
    run = planned.variants[0].runs[0]
    (run.folder.path / "status.json").write_text('{"state": "running"}')
    command = [sys.executable, "-c", LOCK, str(run.folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        assert run.state == "running"
        with pytest.raises(UsageError, match=f"is in use by process {other.pid} on"):
            train(run)
        other.kill()
    assert run.state == "stopped"
    assert train(run).state == "finished"


def test_every_problem_of_every_arm_is_reported_at_once(ablation):
    with pytest.raises(RecipeError) as caught:
        ablation(vary=["backbone.width=0", "backbone.multiple=5"], swap=["sampler=pair"], seeds=(3,))
    message = str(caught.value)
    assert "2 of 4 arms cannot be trained" in message
    assert "dots.toml (--vary backbone.width=0)" in message
    assert "width = 0: must be greater than or equal to 1" in message
    assert "cannot take views of 24 x 24 pixels" in message


def test_arms_share_the_precision_that_the_full_recipe_chooses_once(ablation, train, trials):
    planned = ablation("precision=auto", vary=["backbone.width=4", "precision=32-true"])
    planned.write_recipes()
    full, narrow, written = (variant.runs for variant in planned.variants)
    train(narrow[1])
    assert [plan.recipe.backbone.model_extra["width"] for plan in trials.plans] == [8], "of the full recipe"
    trials.seconds = dict.fromkeys(trials.seconds, 0.1)
    for run in (full[0], full[1], narrow[0], written[0]):
        train(run)
    assert len(trials.plans) == 1
    keys = [(run.folder.resolved().get("auto_precision"), run.folder.resolved().get("auto_memory_format"))
            for run in (*full, *narrow, written[0])]  # fmt: skip
    assert keys == [("32-true", "contiguous")] * 4 + [(None, None)], "a written precision needs no choice"


def test_new_arms_follow_those_that_have_begun(ablation, train, trials):
    first = ablation("precision=auto", vary=["backbone.width=4"], seeds=(3,))
    first.write_recipes()
    train(first.variants[1].runs[0])
    later = ablation("precision=auto", vary=["backbone.width=6", "backbone.width=4"], seeds=(3,))
    later.write_recipes()
    trials.seconds = {mode: 1.0 if mode.precision == "bf16-mixed" else 9.0 for mode in trials.seconds}
    train(later.variants[1].runs[0])
    assert later.variants[1].runs[0].folder.resolved()["auto_memory_format"] == "contiguous"
    assert len(trials.plans) == 1
