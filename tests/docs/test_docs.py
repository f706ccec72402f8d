"""The documentation, executed: Python blocks run, TOML blocks parse, sslkit commands exist, links lead somewhere, lines are not too long."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import sslkit
from sslkit.cli import make_app

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)[^)]*\)")


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in BLOCK.findall(page.read_text()) if language in languages]


def test_there_is_documentation():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "univip.md", "plugins.md", "recipes.md"} <= {
        page.name for page in PAGES
    }


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
@pytest.mark.slow
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for body in blocks(page, "python"):
        exec(compile(body, str(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python", "py")], ids=lambda page: page.name)
def test_code_imports_public_names_only(page):
    private = [name for body in blocks(page, "python", "py") for name in imported(body) if not is_public(name)]
    assert not private, "docs/api.md lists what is public"


def imported(code: str) -> list[str]:
    """Return the dotted names that code imports."""
    nodes = list(ast.walk(ast.parse(code)))
    whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    parts = [(node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [*whole, *(f"{module}.{name}" for module, name in parts)]


def is_public(name: str) -> bool:
    """Return whether a dotted name is public: of ours, those on docs/api.md, and what the plugins' packages export."""
    package, *rest = name.split(".")
    if package == "sslkit":
        modules = re.findall(r"^## sslkit\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
        return not rest or (rest[0] in sslkit.__all__ and len(rest) == 1) or rest[0] in modules
    return not (ROOT / "plugins" / package).is_dir() or len(rest) < 2


@pytest.mark.parametrize(
    ("code", "public"),
    [
        ("import sslkit", True),
        ("from sslkit import hookimpl", True),
        ("from sslkit.api import Objective", True),
        ("from sslkit_univip import sinkhorn", True),
        ("from sslkit import report", False),
        ("import sslkit.plugins", False),
        ("from sslkit.planning.planner import make_plan", False),
        ("from sslkit_univip.instances import InstanceInstance", False),
        ("def f():\n    from sslkit.facade import load", False),
    ],
)
def test_private_imports_are_recognised(code, public):
    assert all(map(is_public, imported(code))) == public


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=lambda page: page.name)
def test_toml_blocks_parse(page):
    for body in blocks(page, "toml"):
        assert tomllib.loads(body)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for body in blocks(page, "console", "bash", "sh"):
            lines = body.replace("\\\n", " ").splitlines()
            found += [(page.name, part.strip()) for line in lines for part in line.removeprefix("$ ").split("&&")]
    return [(page, line) for page, line in found if line.startswith("sslkit ")]


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_and_their_options_exist(page, line):
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command: Any = typer.main.get_command(make_app())
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]} | {
        "--help"
    }
    assert not [word for word in words if word.startswith("--") and word.partition("=")[0] not in options], line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]


NO_PROSE = ("CHANGELOG.md", "table.md")
"""Lists of changes, and tables that `sslkit ablate` writes."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NO_PROSE], ids=lambda page: page.name)
def test_prose_stays_within_120_columns(page):
    """Code, tables and images may be wider, and a link cannot be broken."""
    prose = BLOCK.sub("", page.read_text()).splitlines()
    wide = [line for line in prose if len(line) > 120 and not line.startswith(("|", "![", "    "))]
    assert not [line for line in wide if len(LINK.sub("", line)) > 120]
