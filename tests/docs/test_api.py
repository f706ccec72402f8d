"""The page of public names: up to date, complete, and about the right modules."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import sslkit

ROOT = Path(__file__).parent.parent.parent
SCRIPT, PAGE = ROOT / "docs" / "api.py", ROOT / "docs" / "api.md"
PRIVATE = {"__init__", "__main__", "facade", "hookspecs", "plugins"}
"""Modules at the top of `sslkit/` that are not for import."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_public_surface_is_the_committed_one(script):
    assert script.make() == PAGE.read_text(encoding="utf-8"), "run: python docs/api.py, and look at the difference"


def test_every_name_of_the_package_is_on_it():
    section = PAGE.read_text().partition("\n## sslkit\n")[2].partition("\n### ")[0]
    assert sorted(re.findall(r"^- `(\w+)", section, re.MULTILINE)) == sorted(sslkit.__all__)


def test_the_public_modules_are_those_at_the_top(script):
    modules = {path.stem for path in (ROOT / "sslkit").glob("*.py")} - PRIVATE
    assert set(script.MODULES) == modules | {"testing"}
    assert len(script.MODULES) == len(set(script.MODULES))


def test_every_public_name_of_a_module_is_on_it(script):
    """An independent look: what the imported modules define, beside what the script reads from their source."""
    text = PAGE.read_text()
    for name in script.MODULES:
        module = importlib.import_module(f"sslkit.{name}")
        section = text.partition(f"\n## sslkit.{name}\n")[2].partition("\n## ")[0]
        listed = set(re.findall(r"^(?:- |### )`(\w+)", section, re.MULTILINE))
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        public = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
        assert not set(public) - listed, module.__name__


def test_a_name_without_a_docstring_is_refused(script):
    with pytest.raises(ValueError, match="open has no docstring"):
        list(script._function(script.ast.parse("def open(): ...").body[0]))


def test_signatures_are_complete(script):
    node = script.ast.parse('def f(self, a: int, b=1, *c, d: str = "x", e, **g: Any) -> None:\n    """Do it."""').body[
        0
    ]
    assert " ".join(script._function(node)) == "- `f(a: int, b = 1, *c, d: str = 'x', e, **g: Any) -> None`: Do it."
    node = script.ast.parse('def f(a, *, d):\n    """Do it."""').body[0]
    assert " ".join(script._function(node)) == "- `f(a, *, d)`: Do it."
