"""The walk-through of CONTRIBUTING.md: write its files, install, test and plan them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"
FILE = re.compile(r"^\*\*`([^`]+)`\*\*.*?^```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Write the files, and the metadata with the entry point that an installer would write beside them."""
    root = tmp_path_factory.mktemp("sslkit-hypersphere")
    for name, body in FILE.findall(PAGE.read_text()):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(body)
    values = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    info = root / f"{values['name'].replace('-', '_')}-{values['version']}.dist-info"
    info.mkdir()
    [(name, module)] = values["entry-points"]["sslkit"].items()
    (info / "entry_points.txt").write_text(f"[sslkit]\n{name} = {module}\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {values['name']}\nVersion: {values['version']}\n")
    return root


def python(project: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, *arguments], cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_has_the_files_that_it_lists(project):
    listed = re.findall(r"^      (\S+)$", PAGE.read_text(), re.MULTILINE)
    assert len(listed) == 4
    assert all((project / name).is_file() for name in listed)


def test_its_tests_pass(project):
    arguments = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "error", "tests")
    out = python(project, "-m", "pytest", "-c", "pyproject.toml", *arguments)
    assert "27 passed" in out  # 26 checks, as the text says, and the numbers


def test_its_recipe_is_valid(project):
    if not importlib.metadata.entry_points(group="sslkit"):
        pytest.skip("sslkit is not installed")
    out = python(project, "-m", "sslkit", "check", "hypersphere.toml")
    assert "hypersphere/align-uniform" in out
    assert "it is not built" in out
