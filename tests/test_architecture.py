"""The floors: imports only point down, the core knows no plugin, plugins know no sibling."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {
        "axes",
        "boxes",
        "crops",
        "ema",
        "errors",
        "folders",
        "heap",
        "images",
        "monitors",
        "nn",
        "optim",
        "schedules",
        "seeds",
        "sentinel",
        "sharding",
        "tables",
    },
    {"api", "hookspecs"},
    {"choosing", "options", "plan", "plugins", "probe_wiring", "recipe", "wiring"},
    {
        "ablation",
        "ahead",
        "augment",
        "augment_tensors",
        "augment_uint8",
        "bad_images",
        "cache",
        "checkpoint",
        "cost",
        "diverging",
        "doctor",
        "epochs",
        "feed",
        "flight",
        "graphs",
        "hardware",
        "keeping",
        "labelling",
        "measuring",
        "networks",
        "observers",
        "preparing",
        "probed",
        "probing",
        "processes",
        "progress",
        "recomputing",
        "replaying",
        "resuming",
        "ring",
        "runfolder",
        "scan",
        "small_maps",
        "spent",
        "stepping",
        "stopping",
        "tracing",
        "trainer",
        "views",
        "weights",
        "worldsize",
    },
    {"__main__", "cli", "contact", "diagnosis", "jsonschema", "paper", "report"},
]
PUBLIC = {
    "",
    "api",
    "axes",
    "boxes",
    "cli.targets",
    "crops",
    "errors",
    "folders",
    "images",
    "nn",
    "progress",
    "schedules",
}
"""What a plugin may import; the command line's `targets` and `progress` only where commands are."""
FIRST_PARTY = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists())


def imports(file: Path) -> set[str]:
    """Return the dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {_module(node.module, alias.name) for alias in node.names}
    return names


def _module(package: str, name: str) -> str:
    """Return `package.name` where that is a module of ours, or a name of the package `sslkit` itself."""
    inner = ROOT.joinpath(*package.split("."), name)
    is_module = inner.is_dir() or inner.with_suffix(".py").exists()
    return f"{package}.{name}" if is_module or package == "sslkit" else package


def floor(module: str) -> int:
    first = module.partition(".")[0]
    return next(number for number, names in enumerate(FLOORS) if first in names)


def core_files() -> list[Path]:
    return list((ROOT / "sslkit").rglob("*.py"))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT / "sslkit").with_suffix("").parts).removesuffix(".__init__")


def test_every_module_is_on_a_floor():
    found = {module_of(file).partition(".")[0] for file in core_files()} - {"__init__", "testing"}
    assert found == set().union(*FLOORS)


def test_imports_point_down_or_stay_on_their_floor():
    upward = []
    for file in core_files():
        module = module_of(file)
        if module == "__init__":
            continue
        limit = 2 if module.startswith("testing") else floor(module)
        for name in imports(file):
            below = name.removeprefix("sslkit.")
            if (
                name.startswith("sslkit.")
                and not below.startswith(("testing", "__version__", "hookimpl"))
                and floor(below) > limit
            ):
                upward.append(f"{module} imports {below}")
    assert not upward


def test_there_are_no_cycles():
    graph = {
        module_of(file): {name.removeprefix("sslkit.") for name in imports(file) if name.startswith("sslkit.")}
        for file in core_files()
    }

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for name in graph.get(start, set()) - seen:
            seen.add(name)
            if name == goal or reaches(name, goal, seen):
                return True
        return False

    assert not [name for name in graph if reaches(name, name, set())]


def test_the_core_holds_no_plugins_name():
    from sslkit.hookspecs import COLLECTING

    packages = set(FIRST_PARTY) - set(COLLECTING.values())  # some packages are called what their hook is called
    names = [*packages, *(f"{name.removeprefix('sslkit_')}/" for name in FIRST_PARTY)]
    for file in core_files():
        tree = ast.parse(file.read_text())
        docs = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        }
        strings = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if text not in docs and text.startswith(tuple(names))], file
        assert not [name for name in imports(file) if name.startswith(tuple(FIRST_PARTY))], file


@pytest.mark.parametrize("package", FIRST_PARTY)
def test_plugins_import_the_public_surface_and_no_sibling(package):
    for file in (ROOT / "plugins" / package).rglob("*.py"):
        for name in imports(file):
            if name.startswith("sslkit_"):
                assert name.partition(".")[0] == package, f"{file} imports {name}"
            elif name.partition(".")[0] == "sslkit":
                dotted = name.removeprefix("sslkit").lstrip(".")
                assert dotted in PUBLIC or dotted in {"hookimpl", "__version__"}, f"{file} imports {name}"


def test_every_first_party_plugin_is_packaged_and_registered():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert sorted(project["project"]["entry-points"]["sslkit"].values()) == FIRST_PARTY
    packaged = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packaged) == sorted(["sslkit", *(f"plugins/{name}" for name in FIRST_PARTY)])


def functions(file: Path) -> list[int]:
    nodes = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return [node.end_lineno - node.lineno + 1 for node in nodes]


def test_functions_stay_short():
    lengths = sorted(
        length
        for folder in ("sslkit", "plugins")
        for file in (ROOT / folder).rglob("*.py")
        for length in functions(file)
    )
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[-1] <= 60


def test_the_changelog_knows_this_version():
    from sslkit import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
