"""The README and CONTRIBUTING.md: their recipe is sound, their objective conforms, their figures are the measured ones."""

from __future__ import annotations

import ast
import csv
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sslkit.cli import make_app
from sslkit.testing import check_objective

ROOT = Path(__file__).parent.parent.parent
README, CONTRIBUTING = ((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))


def only_block(page: str, language: str) -> str:
    [body] = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return body


def test_the_set_up_is_two_commands():
    assert "```console\npip install . && sslkit run recipes/quickstart.toml\n```" in README
    assert "```console\npip install nox && nox -s tests\n```" in README


def test_the_recipe_has_eight_lines_and_is_sound(tmp_path):
    text = only_block(README, "toml")
    assert len(text.splitlines()) == 8
    (tmp_path / "mine.toml").write_text(text)
    result = CliRunner().invoke(make_app(), ["check", str(tmp_path / "mine.toml")])
    assert result.exit_code == 0, result.output
    assert "no objective reads the target network" in result.output, "as the text says"
    assert "online.features.scene" in result.output


def test_the_objective_has_ten_lines_and_conforms():
    text = only_block(README, "python")
    assert len([line for line in text.splitlines() if line.strip()]) == 10
    names: dict[str, object] = {}
    exec(text, names)
    check_objective(names["CrossView"])


def test_the_headline_ratios_are_those_of_the_benchmark():
    page = (ROOT / "benchmarks" / "speed.md").read_text()
    measured = dict(re.findall(r"^\| ([^|]+) \| \*\*(\S+)\*\* \|", page, re.MULTILINE))
    shown = re.findall(r"\| \*\*([\d.]+x)\*\* \|$", README, re.MULTILINE)
    assert shown == [
        measured["through the loader, 2 workers, float out"],
        measured["BYOL step, equal settings, ResNet-50, 224 px"],
        measured["transport: POT batched, kernel domain"],
    ]
    flat = " ".join(README.split())
    versions = re.search(r"^- versions: (.*)$", page, re.MULTILINE)[1].split(", ")
    assert not [item for item in versions if item.startswith(("torch", "lightly", "pot")) and item not in flat]


def test_the_ablation_table_is_the_committed_one():
    shown = re.findall(r"^\| ([\w, -]+) \| (\d.* ± .*) \|$", README, re.MULTILINE)
    with (ROOT / "benchmarks" / "quickstart" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [name for name, _ in shown] == [row["arm"] for row in rows]
    for (arm, cells), row in zip(shown, rows, strict=True):
        expected = " | ".join(_cells(row, probe) for probe in ("knn", "linear"))
        assert f"{cells} |".replace("−", "-").startswith(f"{expected} |"), arm


def _cells(row: dict[str, str], probe: str) -> str:
    """Return mean, deviation and paired difference to full as the README shows them."""
    percent = {
        name.removeprefix(f"{probe} top1 "): 100 * float(value)
        for name, value in row.items()
        if name.startswith(f"{probe} top1 ") and value
    }
    mean = f"{percent['mean']:.1f} ± {percent['std']:.1f}"
    if "diff" not in percent:
        return f"{mean} |"
    star = " \\*" if percent["low"] * percent["high"] > 0 else ""
    return f"{mean} | {percent['diff']:+.1f} [{percent['low']:+.1f}, {percent['high']:+.1f}]{star}"


def test_the_badges_say_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    figures = ROOT / "docs" / "figures"
    assert f"≥ {project['requires-python'].removeprefix('>=')}<" in (figures / "badge-python.svg").read_text()
    assert f">{project['license']}<" in (figures / "badge-licence.svg").read_text()
    assert "://" not in "".join(re.findall(r"!\[[^\]]*\]\(([^)]*)\)", README)), "pictures come from the repository"


def test_pictures_are_small():
    assert not [file for file in (ROOT / "docs" / "figures").iterdir() if file.stat().st_size > 300_000]


def test_the_rooms_are_drawn_in_their_order():
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text())
    [order] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ORDER"
    ]
    picture = [line[:24].split() for line in only_block(CONTRIBUTING, "text").splitlines()]
    assert [set(rooms) for rooms in reversed(order)] == [set(rooms) for rooms in picture]


@pytest.mark.parametrize("file", re.findall(r"^\d+\. \[([^\]]+)\]", README, re.MULTILINE))
def test_files_to_read_first_exist(file):
    assert (ROOT / file).is_file()
