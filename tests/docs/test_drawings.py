"""The drawing of the data flow: up to date, well-formed, and true to UniVIP's objectives."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from sslkit_univip.instances import InstanceInstance
from sslkit_univip.scenes import SceneInstance, SceneScene

SCRIPT = Path(__file__).parent.parent.parent / "docs" / "drawings" / "data_flow.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("data_flow", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_file_is_what_the_script_draws(script):
    assert script.OUT.read_text() == script.draw(), "run python docs/drawings/data_flow.py"


def test_it_is_well_formed_and_loads_nothing(script):
    root = ElementTree.fromstring(script.draw())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [element for element in root.iter() if any(name.endswith(("href", "src")) for name in element.attrib)]


@pytest.mark.parametrize("objective", [SceneScene, SceneInstance, InstanceInstance])
def test_lines_lead_from_the_rows_that_an_objective_requires(script, objective):
    drawn = {script.ROWS[row] for row in script.READS[objective.name]}
    assert drawn == {text.partition(":")[0] for text in objective.requires.values()}


def test_it_has_a_light_and_a_dark_palette_of_the_same_kinds(script):
    assert set(script.LIGHT) == set(script.DARK)
    assert "prefers-color-scheme: dark" in script.draw()
