"""The study's recipes can be trained, and its committed tables are those of its committed figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sslkit import paper, recipe
from sslkit.ablation.arms import Asked, arms
from sslkit.ablation.results import load
from sslkit.wiring import make_plan

STUDY = Path(__file__).parent.parent.parent / "benchmarks" / "learning"
NAMES = ("scenes", "photos")
BYOL = "byol: --drop scene-instance,instance-instance --swap sampler=two-views"
DROPPED = ("instance-instance", "scene-instance", "scene-instance,instance-instance")


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_of_the_study_can_be_made(name, installed):
    text = recipe.read(STUDY / f"{name}.toml")
    made, problems = recipe.structure(text)
    assert not problems, recipe.complaint(text, problems)
    full, problems = make_plan(made, installed)
    assert not problems, recipe.complaint(text, problems)
    for arm in arms(text, full, installed, Asked(drop=DROPPED, arm=[BYOL])):
        made, problems = recipe.structure(arm.text(text, 0))
        assert not problems
        plan, problems = make_plan(made, installed)
        assert not problems, recipe.complaint(text, problems)
        assert plan.groups["scene"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_table_is_that_of_the_committed_figures(name, tmp_path):
    stored = json.loads((STUDY / name / "results.json").read_text())
    results = load(stored)
    assert [arm.finished for arm in results.arms] == [len(results.seeds)] * 5
    paper.write(results, tmp_path)
    for file in ("table.md", "table.csv"):
        assert (tmp_path / file).read_text() == (STUDY / name / file).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_the_committed_figures(name):
    command = [sys.executable, str(STUDY / "brief.py"), str(STUDY / name)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert made.stdout in (STUDY / "README.md").read_text()
