"""The study's recipes can be trained, and its committed tables are those of its committed figures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sslkit import report
from sslkit.ablation.arm_planner import make_arms
from sslkit.ablation.requests import ArmRequests
from sslkit.ablation.results import load
from sslkit.planning import recipe_file
from sslkit.planning.planner import make_plan

STUDY = Path(__file__).parent.parent.parent / "benchmarks" / "learning"
NAMES = ("scenes", "photos")
BYOL = "byol: --drop scene-instance,instance-instance --swap sampler=two-views"
DROPPED = ("instance-instance", "scene-instance", "scene-instance,instance-instance")


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_of_the_study_can_be_made(name, installed):
    text = recipe_file.read(STUDY / f"{name}.toml")
    made, problems = recipe_file.check_structure(text)
    assert not problems, recipe_file.format_problems(text, problems)
    full, problems = make_plan(made, installed)
    assert not problems, recipe_file.format_problems(text, problems)
    for arm in make_arms(text, full, installed, ArmRequests(drop=DROPPED, arm=[BYOL])):
        made, problems = recipe_file.check_structure(arm.recipe_file(text, 0))
        assert not problems
        plan, problems = make_plan(made, installed)
        assert not problems, recipe_file.format_problems(text, problems)
        assert plan.groups["scene"] == 2


def cells(table):
    """Return the words and the numbers of a table, row by row."""
    with table.open(newline="") as file:
        every = [cell for row in csv.reader(file) for cell in row]
    return [cell for cell in every if not _number(cell)], [float(cell) for cell in every if _number(cell)]


def _number(cell):
    return cell.lstrip("-")[:1].isdecimal() and cell.count(".") == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_table_is_that_of_the_committed_figures(name, tmp_path):
    stored = json.loads((STUDY / name / "results.json").read_text())
    results = load(stored)
    assert [arm.finished for arm in results.arms] == [len(results.seeds)] * 5
    report.write(results, tmp_path)
    assert (tmp_path / "table.md").read_text() == (STUDY / name / "table.md").read_text()
    made, stored = cells(tmp_path / "table.csv"), cells(STUDY / name / "table.csv")
    assert made[0] == stored[0]
    assert made[1] == pytest.approx(stored[1], rel=1e-9, abs=1e-12), "up to SciPy's last digits"


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_the_committed_figures(name):
    command = [sys.executable, str(STUDY / "brief.py"), str(STUDY / name)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert made.stdout in (STUDY / "README.md").read_text()
